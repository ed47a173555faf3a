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
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Labels, Rollouts
from pipeline.ctmc.weights import effective_sample_size, log_weights, self_normalized, tilt_for_ess
from pipeline.losses import matching_loss
from pipeline.records import ROLLOUTS, TARGETS, matrix
from pipeline.replay import Batch
from pipeline.samplers.posterior import completion_log_prob
from pipeline.seeding import Stream, generator


def label(rollouts: Rollouts, run: SimpleNamespace) -> Labels:
    """Adjoint targets of this round's rollouts and of the rows kept from the window of rounds before it."""
    table, kept, groups = rollouts.table, _kept(rollouts, run.algorithm.window), (-1, run.rollout.completions)
    spent = 0.0 if rollouts.previous is None else rollouts.previous.column("tilt_after")[-1].as_py()
    direct = run.algorithm.tilt == "direct" or spent > (1 - 1e-9) / run.algorithm.alpha
    new_ratio = _log_ratio(rollouts, run, direct)
    before, after = 0.0, 1 / run.algorithm.alpha
    if not direct:
        reward = _column(table, "reward").view(groups)
        before, after = spent, spent + _next_step(new_ratio.view(groups), reward, spent, run.algorithm)

    reward = torch.cat([_column(kept, "reward"), _column(table, "reward")])
    log_ratio = torch.cat([_column(kept, "log_ratio"), new_ratio])
    tilt_before = torch.cat([_column(kept, "tilt_before"), torch.full_like(new_ratio, before)])
    log_weight = log_weights(log_ratio.view(groups), reward.view(groups), (after - tilt_before).view(groups))
    weight = self_normalized(log_weight)
    columns = {
        name: pa.chunked_array([*kept.column(name).chunks, *table.column(name).chunks]) for name in ROLLOUTS.names
    }
    columns |= {
        "log_ratio": log_ratio.numpy(),
        "tilt_before": tilt_before.numpy(),
        "tilt_after": np.full(len(log_ratio), after),
        "log_weight": log_weight.flatten().numpy(),
        "weight": weight.flatten().numpy(),
    }
    new = len(table) // run.rollout.completions
    return Labels(columns, _diagnostics(rollouts, run, log_weight[-new:], weight[-new:], before, after))


def _next_step(log_ratio: Tensor, reward: Tensor, spent: float, settings: Any) -> float:
    """1/α_k: as much of what is left of 1/α as the ESS allows."""
    largest = min(settings.largest_step, 1 / settings.alpha - spent)
    return tilt_for_ess(log_ratio, reward, settings.ess, largest)


def _log_ratio(rollouts: Rollouts, run: SimpleNamespace, direct: bool) -> Tensor:
    """Σ log p^base - log p^u along each path; unless `direct`, the previous policy takes the base's place.

    The recorded log-probabilities are of the law really sampled. Where that is the previous policy itself
    (temperature 1) the ratio is 1 and nothing is evaluated.
    """
    if not direct and run.rollout.temperature == 1:
        return torch.zeros(len(rollouts.table), dtype=torch.float64)
    recorded = torch.from_numpy(matrix(rollouts.table, "log_prob"))
    reference = rollouts.log_prob("base" if direct else "previous", rollouts.table, 1.0)
    return (reference - recorded).double().sum(dim=1)


def _diagnostics(
    rollouts: Rollouts, run: SimpleNamespace, log_weight: Tensor, weight: Tensor, before: float, after: float
) -> dict[str, float]:
    ess = effective_sample_size(weight)
    per_state = _column(rollouts.table, "reward").view(weight.shape).mean(dim=1)
    kl, kl_se = _kl_to_base(rollouts, run)
    return {
        "reward_mean": float(per_state.mean()),
        "reward_se": float(per_state.std(unbiased=False) / len(per_state) ** 0.5),
        "ess_mean": float(ess.mean()),
        "ess_min": float(ess.min()),
        "ess_below_2": float((ess < 2).double().mean()),
        "log_weight_mean": float(log_weight.mean()),
        "inverse_alpha_step": after - before,
        "inverse_alpha_total": after,
        "kl_to_base": kl,
        "kl_to_base_se": kl_se,
    }


def _kl_to_base(rollouts: Rollouts, run: SimpleNamespace) -> tuple[float, float]:
    """KL(p^u ‖ p^base) of paths = E[Σ log p^u - log p^base], over a random subset of `kl_rollouts` trajectories."""
    table, settings = rollouts.table, run.algorithm
    rng = generator(run.seed, Stream.KL, table.column("round")[0].as_py())
    subset = table.take(np.sort(rng.permutation(len(table))[: settings.kl_rollouts]))
    recorded = torch.from_numpy(matrix(subset, "log_prob"))
    kl = (recorded - rollouts.log_prob("base", subset, 1.0)).double().sum(dim=1)
    return float(kl.mean()), float(kl.std(unbiased=False) / len(kl) ** 0.5)


def _kept(rollouts: Rollouts, window: int) -> pa.Table:
    """The rows of the last window - 1 rounds."""
    if rollouts.previous is None:
        return TARGETS.empty_table()
    oldest = rollouts.table.column("round")[0].as_py() - window + 1
    return rollouts.previous.filter(np.asarray(rollouts.previous.column("round")) >= oldest)


def _column(table: pa.Table, name: str) -> Tensor:
    return torch.from_numpy(table.column(name).to_numpy().astype(np.float64))


def loss(policy: nn.Module, batch: Batch, mask_id: int) -> Tensor:
    """L_x of each state, [n]; with W = 1 and X_1 from a corpus this is LLaDA's pre-training objective."""
    log_prob = completion_log_prob(policy, batch.prompt, batch.state, batch.tokens, mask_id)
    return matching_loss(log_prob, batch.weight, batch.jump)


PLUGIN = Algorithm(paper="Discrete Adjoint Matching, ICLR 2026, arXiv 2602.07132", label=label, loss=loss)
