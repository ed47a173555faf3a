"""Discrete Adjoint Matching with the importance-weighted adjoint estimator (arXiv 2602.07132).

Maximise E[r(X_1)] - α KL(p^u ‖ p^base). The optimum is p*(X) ∝ p^base(X) e^{r(X_1)/α}, its posterior the base's
times the adjoint, and the adjoint is estimated from K completions of a state:

    ℓ_k = Σ_s Σ_{i∈S_s} [log p^base - log p^u](x_i | x_s) + r(X_1^(k))/α,      W_k = K softmax_k(ℓ)_k,
    L_x = - (1/K) Σ_k W_k mean_{i∈M(x)} log p_θ(X^(k)_i | x, i).

`start: remasked` (the paper's): x is a re-masked X_1 and the K completions start from x.
`start: empty`: the K completions start from the empty answer and x is X_1^(k), drawn by W_k, re-masked: cheaper
per gradient; known as weighted denoising cross-entropy.

`tilt: direct` (the paper's): the formula as it stands, in every round.
`tilt: annealed` (proximal): round k tilts the policy before it by a part of the reward, p_k ∝ p_{k-1} e^{r/α_k},
with 1/α_k as large as the ESS allows and Σ_k 1/α_k ≤ 1/α. In the first of these the ratio is 1, so the weights
are e^{r/α_k}. Solved exactly, p_k ∝ p^base e^{r Σ_{j≤k} 1/α_j}, which is p* once Σ 1/α_k = 1/α. The errors of these
rounds add up, because the base is not consulted, so once 1/α is spent every further round is direct: it
corrects them and converges to p*. A row kept from round j < k was drawn from p_{j-1}, so its weight in round k is
e^{r (1/α_j + … + 1/α_k)}.

`control_variate` (with `jumps: first` and `start: remasked`): the jumps (i_k, v_k) from x were drawn from the
round's first policy u, so (1/K) Σ_k 1[v_k = v, i_k = i] has the known mean p^u(v | x, i)/|M|, which replaces it:

    L_x = - (1/K) Σ_k (W_k - 1) mean_{i∈J_k} log p_θ(X^(k)_i | x, i) - mean_{i∈M} Σ_v p^u(v | x, i) log p_θ(v | x, i).

The expectation is the same and the noise is multiplied by W - 1, which vanishes at the optimum. `gain` γ < 1 takes
γ (W_k - 1) instead: each round then aims at a share γ of the way, as in stochastic approximation, with γ² of the noise.

`loss: squared` matches the rates by Σ_y (u^θ - w)² instead, the paper's naive alternative.
"""

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm
from pipeline.ctmc.losses import squared_loss
from pipeline.ctmc.weights import log_weights, self_normalized
from pipeline.objectives.annealing import next_step
from pipeline.objectives.context import LossContext
from pipeline.objectives.targets import (
    Rollouts,
    Targets,
    column,
    path_log_ratio,
    rows_in_window,
    targets_from_weights,
)
from pipeline.objectives.weighted_cross_entropy import cross_entropy_with_control_variate, weighted_cross_entropy
from pipeline.samplers.posterior import log_posterior, log_prob_of_completions, scatter
from pipeline.settings.algorithms import Dam
from pipeline.settings.sections import Rollout
from pipeline.training.replay_buffer import Batch, Replay, States


def make_targets(rollouts: Rollouts, settings: Dam) -> Targets:
    """Adjoint targets of this round's rollouts and of the rows that the replay window keeps from rounds before it."""
    older = rows_in_window(rollouts, settings.replay_rounds)
    spent = 0.0 if rollouts.previous is None else rollouts.previous.column("tilt_after")[-1].as_py()
    direct = settings.tilt == "direct" or spent > (1 - 1e-9) / settings.alpha
    new_ratio = _log_ratio(rollouts, direct)
    before, after = 0.0, 1 / settings.alpha
    if not direct:
        step = next_step(rollouts.in_groups(new_ratio), rollouts.reward, spent, settings)
        before, after = spent, spent + step

    reward = torch.cat([column(older, "reward"), column(rollouts.table, "reward")])
    log_ratio = torch.cat([column(older, "log_ratio"), new_ratio])
    tilt_before = torch.cat([column(older, "tilt_before"), torch.full_like(new_ratio, before)])
    log_weight = log_weights(*(rollouts.in_groups(part) for part in (log_ratio, reward, after - tilt_before)))
    return targets_from_weights(
        rollouts,
        older=older,
        log_ratio=log_ratio,
        tilt_before=tilt_before,
        tilt_after=after,
        log_weight=log_weight,
        weight=self_normalized(log_weight),
    )


def _log_ratio(rollouts: Rollouts, direct: bool) -> Float[Tensor, " rows"]:
    """Σ log p^base - log p^u along each path; unless `direct`, the policy before takes the base's place.

    Where the law sampled is that policy itself (temperature 1) the ratio is 1 and nothing is evaluated.
    """
    if not direct and rollouts.settings.rollout.temperature == 1:
        return torch.zeros(len(rollouts.table), dtype=torch.float64)
    return path_log_ratio(rollouts, "base" if direct else "behavior")


def replay(targets: pa.Table, rollout: Rollout, settings: Dam, mask_id: int) -> Replay:
    """Re-masked completions, or the states from which the completions started, and the jumps that the loss reads."""
    states: States = "remasked_completions" if rollout.start == "empty" else "starting_states"
    return Replay.of_targets(targets, rollout.completions, mask_id, states, settings.jumps)


def loss(policy: nn.Module, batch: Batch, context: LossContext[Dam]) -> Tensor:
    """L_x of each state, [n]."""
    settings, mask_id = context.algorithm, context.mask_id
    if settings.loss == "squared":
        return _squared(policy, batch, mask_id)
    if settings.control_variate:
        behavior, temperature = context.frozen["behavior"], context.rollout.temperature
        return cross_entropy_with_control_variate(policy, batch, mask_id, behavior, settings.gain, temperature)
    return weighted_cross_entropy(policy, batch, mask_id)


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
