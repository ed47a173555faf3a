"""Discrete Adjoint Matching with the importance-weighted adjoint estimator (arXiv 2602.07132).

Maximise E[r(X_1)] - α KL(p^u ‖ p^base). The optimum is p*(X) ∝ p^base(X) e^{r(X_1)/α}, its posterior the base's
times the adjoint, and the adjoint is estimated from K completions of a state:

    ℓ_k = Σ_s Σ_{i∈S_s} [log p^base - log p^u](x_i | x_s) + r(X_1^(k))/α,      W_k = K softmax_k(ℓ)_k,
    L_x = - (1/K) Σ_k W_k mean_{i∈M(x)} log p_θ(X^(k)_i | x, i).

`branch: reciprocal` (the paper's): x is a re-masked X_1 and the K completions start from x.
`branch: root`: the K completions start from the empty answer and x is X_1^(k), drawn by W_k, re-masked: cheaper
per gradient; known as weighted denoising cross-entropy.

`tilt: direct` (the paper's): the formula as it stands, in every round.
`tilt: annealed` (proximal): round k tilts the policy before it by a part of the reward, p_k ∝ p_{k-1} e^{r/α_k},
with 1/α_k as large as the ESS allows and Σ_k 1/α_k ≤ 1/α. In the first of these the ratio is 1, so the weights
are e^{r/α_k}. Solved exactly, p_k ∝ p^base e^{r Σ_{j≤k} 1/α_j}, which is p* once Σ 1/α_k = 1/α. The errors of these
rounds add up, because the base is not consulted, so once 1/α is spent every further round is direct: it
corrects them and converges to p*. A row kept from round j < k was drawn from p_{j-1}, so its weight in round k is
e^{r (1/α_j + … + 1/α_k)}.

`control_variate` (with `jumps: first` and `branch: reciprocal`): the jumps (i_k, v_k) from x were drawn from the
round's first policy u, so (1/K) Σ_k 1[v_k = v, i_k = i] has the known mean p^u(v | x, i)/|M|, which replaces it:

    L_x = - (1/K) Σ_k (W_k - 1) mean_{i∈J_k} log p_θ(X^(k)_i | x, i) - mean_{i∈M} Σ_v p^u(v | x, i) log p_θ(v | x, i).

The expectation is the same and the noise is multiplied by W - 1, which vanishes at the optimum. `gain` γ < 1 takes
γ (W_k - 1) instead: each round then aims at a share γ of the way, as in stochastic approximation, with γ² of the noise.

`loss: squared` matches the rates by Σ_y (u^θ - w)² instead, the paper's naive alternative.
"""

from types import SimpleNamespace

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Round
from pipeline.algorithms.targets import Labels, Rollouts, assemble, column, kept, log_ratio, next_step
from pipeline.algorithms.weighted_cross_entropy import controlled, matched
from pipeline.ctmc.losses import squared_loss
from pipeline.ctmc.weights import log_weights, self_normalized
from pipeline.samplers.posterior import of_completions, read, scattered
from pipeline.settings.algorithms import Dam
from pipeline.training.replay_buffer import Batch, Replay


def label(rollouts: Rollouts, run: SimpleNamespace) -> Labels:
    """Adjoint targets of this round's rollouts and of the rows kept from the window of rounds before it."""
    table, older, groups = rollouts.table, kept(rollouts, run.algorithm.window), (-1, run.rollout.completions)
    spent = 0.0 if rollouts.previous is None else rollouts.previous.column("tilt_after")[-1].as_py()
    direct = run.algorithm.tilt == "direct" or spent > (1 - 1e-9) / run.algorithm.alpha
    new_ratio = _log_ratio(rollouts, run, direct)
    before, after = 0.0, 1 / run.algorithm.alpha
    if not direct:
        reward = column(table, "reward").view(groups)
        before, after = spent, spent + next_step(new_ratio.view(groups), reward, spent, run.algorithm)

    reward = torch.cat([column(older, "reward"), column(table, "reward")])
    ratio = torch.cat([column(older, "log_ratio"), new_ratio])
    tilt_before = torch.cat([column(older, "tilt_before"), torch.full_like(new_ratio, before)])
    log_weight = log_weights(ratio.view(groups), reward.view(groups), (after - tilt_before).view(groups))
    return assemble(
        rollouts,
        run,
        older=older,
        log_ratio=ratio,
        tilt_before=tilt_before,
        tilt_after=after,
        log_weight=log_weight,
        weight=self_normalized(log_weight),
    )


def _log_ratio(rollouts: Rollouts, run: SimpleNamespace, direct: bool) -> Tensor:
    """Σ log p^base - log p^u along each path; unless `direct`, the previous policy takes the base's place.

    Where the law sampled is the previous policy itself (temperature 1) the ratio is 1 and nothing is evaluated.
    """
    if not direct and run.rollout.temperature == 1:
        return torch.zeros(len(rollouts.table), dtype=torch.float64)
    return log_ratio(rollouts, "base" if direct else "previous")


def replay(targets: pa.Table, run: SimpleNamespace, mask_id: int) -> Replay:
    """States of the configured branch, and the jumps that the loss reads."""
    return Replay.of_targets(targets, run.rollout.completions, mask_id, run.rollout.branch, run.algorithm.jumps)


def loss(policy: nn.Module, batch: Batch, around: Round) -> Tensor:
    """L_x of each state, [n]."""
    settings = around.settings.algorithm
    if settings.loss == "squared":
        return _squared(policy, batch, around.mask_id)
    if settings.control_variate:
        temperature = around.settings.rollout.temperature
        return controlled(policy, batch, around.mask_id, around.behavior(), settings.gain, temperature)
    return matched(policy, batch, around.mask_id)


def _squared(policy: nn.Module, batch: Batch, mask_id: int) -> Tensor:
    masked = batch.state == mask_id
    log_posterior = read(policy, batch.prompt, batch.state, masked)
    prob = of_completions(log_posterior, masked, batch.tokens).exp()
    square = scattered(log_posterior.exp().square().sum(dim=1), masked)
    return squared_loss(prob, square, batch.weight, batch.jump, masked)


PLUGIN = Algorithm(
    paper="Discrete Adjoint Matching, ICLR 2026, arXiv 2602.07132",
    settings=Dam,
    label=label,
    replay=replay,
    loss=loss,
)
