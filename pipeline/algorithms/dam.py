"""Discrete Adjoint Matching with the importance-weighted adjoint estimator (arXiv 2602.07132).

Maximise E[r(X_1)] - α KL(p^u ‖ p^base). The optimum is p*(X) ∝ p^base(X) e^{r(X_1)/α}. Its posterior at a state is the
base's times the adjoint, which is estimated from K completions of that state:

    ℓ_k = Σ_s Σ_{i∈S_s} [log p^base - log p^u](x_i | x_s) + r(X_1^(k))/α,      W_k = K softmax_k(τ ℓ)_k,
    L_x = - (1/K) Σ_k W_k mean_{i∈J_k} log p_θ(X^(k)_i | x, i).

`weights: direct` is the paper's, τ = 1: each round aims at p*.
`weights: tempered` damps the step: round k aims at p_k ∝ p_{k-1}^{1-τ} (p^base e^{r/α})^τ, a mirror-descent step of
size τ/α on E[r] - α KL(p ‖ p^base). p* is its only fixed point for every τ: there ℓ_k is the same for all k, so W = 1.
A round that is solved exactly multiplies log(p*/p) by 1 - τ, up to a constant. τ is the largest, up to 1, at which
groups whose rewards differ have a mean effective sample size of at least `min_ess` · K, so that rounds that can afford
it take the paper's weights. `largest_step` may bound it by `largest_step` · α. A row kept from round j was drawn from
p_{j-1}, so in round k its exponent is 1 - Π_{i=j..k} (1 - τ_i) instead of τ.

All this is about the laws of paths that rollouts are drawn from. p* is the fixed point if the policy can draw it so:
one token a step, from a base whose conditionals are those of one joint law. τ = 1 aims at Σ_paths p^base e^{r/α} in any
case. With τ < 1 a round starts from the law drawn, which otherwise is not the law that was aimed at, and the smaller τ,
the further the fixed point is from that of τ = 1 (with `rollout.start: empty`): more `rollout.tokens_per_step` move it
towards laws whose tokens of one step are independent; where the orders σ of the base disagree, it is (E_σ p^base(X |
σ)^τ)^{1/τ} e^{r/α}. A `rollout.temperature` other than 1 would sharpen or flatten the policy in every round anew, so
it is refused with τ < 1.

`rollout.start: remasked` (the paper's): x is a re-masked X_1, and the K completions start from x.
`rollout.start: empty`: the K completions start from the empty answer; x is one of them, drawn with chance W_k/K and
re-masked. One set of rollouts serves every level of masking, so a gradient is cheaper. This is known as weighted
denoising cross-entropy (WDCE). Where rollouts go block by block (`rollout.block_length`), so do these states: later
blocks are masked, the active one in part, and the loss is over the active block. The target law stays the same, and
training skips states that sampling never visits.

`jumps: first`: J_k are the positions that completion k reveals first, as in the paper; `jumps: all`: all masked
positions of x, the average over the order of the jumps. With `start: remasked`, `all` is unbiased only if the base's
conditionals are those of one joint law. Otherwise tokens that completions reveal later do not follow p^u(· | x, i), and
the policy drifts even with r = 0. Null means `first` with `start: remasked` and `all` with `start: empty`.

`control_variate` (with `jumps: first` and `start: remasked`): the jumps (i_k, v_k) from x were drawn from the behavior
policy u, so (1/K) Σ_k 1[v_k = v, i_k = i] has the known mean p^u(v | x, i)/|M|, which replaces it:

    L_x = - (1/K) Σ_k (W_k - 1) mean_{i∈J_k} log p_θ(X^(k)_i | x, i) - mean_{i∈M} Σ_v p^u(v | x, i) log p_θ(v | x, i).

The expectation is the same and the noise is multiplied by W - 1, which vanishes at the optimum. `gain` γ < 1 takes
γ (W_k - 1) instead: each round then goes a share γ of the way, as in stochastic approximation, with γ² of the variance.

With `rollout.cache: block` p^u and p^base in ℓ are the laws with the cache, p̃, and p* becomes p̃* ∝ p̃^base e^{r/α};
the loss is computed without a cache (docs/llada.md).

`loss: squared` matches the rates u^θ to their targets w by Σ_y (u^θ - w)², the paper's naive alternative.
"""

import math

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm
from pipeline.ctmc.losses import squared_loss
from pipeline.ctmc.weights import largest_step, log_weights, self_normalized
from pipeline.objectives.context import LossContext
from pipeline.objectives.targets import Rollouts, Targets, Weights, column, targets_from_weights
from pipeline.objectives.weighted_cross_entropy import cross_entropy_with_control_variate, weighted_cross_entropy
from pipeline.samplers.posterior import log_posterior, log_prob_of_completions, scatter
from pipeline.settings.algorithms import Dam
from pipeline.settings.sections import Rollout
from pipeline.training.replay_buffer import Batch, Replay, States


def make_targets(rollouts: Rollouts, settings: Dam) -> Targets:
    """Adjoint targets of this round's rollouts and of the rows that the replay window keeps from rounds before it."""
    older, new_ratio = rollouts.window(settings.replay_rounds), rollouts.base_log_ratio
    new = log_weights(rollouts.in_groups(new_ratio), rollouts.reward, 1 / settings.alpha)
    tau = exponent(new, rollouts, settings)
    step = torch.cat([1 - (1 - column(older, "step")) * (1 - tau), torch.full_like(new_ratio, tau)])
    log_ratio = torch.cat([column(older, "log_ratio"), new_ratio])
    reward = torch.cat([column(older, "reward"), column(rollouts.table, "reward")])
    log_weight = step * log_weights(log_ratio, reward, 1 / settings.alpha)
    weight = self_normalized(rollouts.in_groups(log_weight)).flatten()
    report = {
        "tau": tau,
        "log_ratio_spread": float(rollouts.in_groups(new_ratio).std(dim=1).mean()),
        "reward_spread": float((rollouts.reward / settings.alpha).std(dim=1).mean()),
    }
    return targets_from_weights(rollouts, older, Weights(weight, log_ratio, step, log_weight, report=report))


def exponent(log_weight: Tensor, rollouts: Rollouts, settings: Dam) -> float:
    """τ of this round, from ℓ of its groups, [g, K]."""
    if settings.weights == "direct":
        return 1.0
    largest = min(1.0, (settings.largest_step or math.inf) * settings.alpha)
    return largest_step(lambda tau: tau * log_weight, rollouts.rewards_differ, settings.min_ess, largest)


def replay(targets: pa.Table, rollout: Rollout, settings: Dam, mask_id: int) -> Replay:
    """Re-masked completions, or the states from which the completions started, and the jumps that the loss reads."""
    states: States = "remasked_completions" if rollout.start == "empty" else "starting_states"
    jumps = settings.jumps or ("all" if rollout.start == "empty" else "first")
    return Replay.of_targets(targets, rollout, mask_id, states, jumps)


def loss(policy: nn.Module, batch: Batch, context: LossContext[Dam]) -> Tensor:
    """L_x of each state, [n]."""
    settings, mask_id = context.algorithm, context.mask_id
    if settings.loss == "squared":
        return _squared(policy, batch, mask_id)
    if settings.control_variate:
        behavior, temperature = context.frozen["behavior"], context.rollout.temperature
        return cross_entropy_with_control_variate(policy, batch, mask_id, behavior, settings.gain, temperature)
    return weighted_cross_entropy(policy, batch)


def _squared(policy: nn.Module, batch: Batch, mask_id: int) -> Tensor:
    masked = batch.state == mask_id
    log_prob = log_posterior(policy, batch.prompt, batch.state, masked)
    prob = log_prob_of_completions(log_prob, masked, batch.tokens).exp()
    square = scatter(log_prob.exp().square().sum(dim=1), masked)
    return squared_loss(prob, square, batch.weight, batch.loss_positions, masked)


PLUGIN = Algorithm(
    paper="Discrete Adjoint Matching, ICLR 2026, arXiv 2602.07132",
    settings=Dam,
    make_targets=make_targets,
    replay=replay,
    loss=loss,
)
