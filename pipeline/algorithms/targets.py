"""From rollouts to rows to learn from: what the algorithms share when they label a round."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.ctmc.weights import effective_sample_size, self_normalized, tilt_for_ess
from pipeline.runtime.random_streams import Stream, generator
from pipeline.storage.parquet import ROLLOUTS, TARGETS, matrix


@dataclass(frozen=True)
class Rollouts:
    """What the adjoint stage knows when it labels one round.

    Attributes:
        table: this round's rollouts.
        previous: the targets of the round before, None in round 1.
        log_prob: (policy name, table, temperature) -> log p(x_i | x_s, i) along the stored paths, [rows, L], by
            teacher forcing; policy name is "base" or "previous".
    """

    table: pa.Table
    previous: pa.Table | None
    log_prob: Callable[[str, pa.Table, float], Tensor]


@dataclass(frozen=True)
class Labels:
    """The columns of `records.TARGETS`, and the round's diagnostics."""

    columns: dict[str, Any]
    diagnostics: dict[str, float]


def column(table: pa.Table, name: str) -> Float[Tensor, " rows"]:
    """A column of numbers, in float64."""
    return torch.from_numpy(table.column(name).to_numpy().astype(np.float64))


def kept(rollouts: Rollouts, window: int) -> pa.Table:
    """The rows of the last window - 1 rounds."""
    if rollouts.previous is None:
        return TARGETS.empty_table()
    oldest = rollouts.table.column("round")[0].as_py() - window + 1
    return rollouts.previous.filter(np.asarray(rollouts.previous.column("round")) >= oldest)


def log_ratio(rollouts: Rollouts, reference: str) -> Float[Tensor, " rows"]:
    """Σ_s Σ_{i∈S_s} log p^reference(x_i | x_s) - log p^u(x_i | x_s), p^u as recorded: the law really sampled."""
    recorded = torch.from_numpy(matrix(rollouts.table, "log_prob"))
    return (rollouts.log_prob(reference, rollouts.table, 1.0) - recorded).double().sum(dim=1)


def next_step(log_ratio: Float[Tensor, "g K"], reward: Float[Tensor, "g K"], spent: float, settings: Any) -> float:
    """1/α_k of an annealed tilt: as much of what is left of 1/α as `largest_step` and the ESS allow."""
    largest = min(settings.largest_step, max(0.0, 1 / settings.alpha - spent))
    return tilt_for_ess(log_ratio, reward, settings.ess, largest)


def assemble(
    rollouts: Rollouts,
    run: SimpleNamespace,
    *,
    older: pa.Table,
    log_ratio: Float[Tensor, " rows"],
    tilt_before: Float[Tensor, " rows"],
    tilt_after: float,
    log_weight: Float[Tensor, "g K"],
    weight: Float[Tensor, "g K"],
) -> Labels:
    """The rows kept from `older` rounds and then this round's, with their weights; diagnostics of this round's."""
    table = rollouts.table
    columns = {
        name: pa.chunked_array([*older.column(name).chunks, *table.column(name).chunks]) for name in ROLLOUTS.names
    }
    columns |= {
        "log_ratio": log_ratio.numpy(),
        "tilt_before": tilt_before.numpy(),
        "tilt_after": np.full(len(log_ratio), tilt_after),
        "log_weight": log_weight.flatten().numpy(),
        "weight": weight.flatten().numpy(),
    }
    new = len(table) // run.rollout.completions
    return Labels(columns, _diagnostics(rollouts, run, log_weight[-new:], float(tilt_before[-1]), tilt_after))


def weighted(rollouts: Rollouts, run: SimpleNamespace, weight: Float[Tensor, "g K"]) -> Labels:
    """This round's rows alone with weights that are no importance weights, such as advantages."""
    zero = torch.zeros(weight.numel(), dtype=torch.float64)
    return assemble(
        rollouts,
        run,
        older=TARGETS.empty_table(),
        log_ratio=zero,
        tilt_before=zero,
        tilt_after=0.0,
        log_weight=zero.view(weight.shape),
        weight=weight,
    )


def centred_rewards(rollouts: Rollouts, run: SimpleNamespace) -> Float[Tensor, "g K"]:
    """A_k = R_k - (1/K) Σ_j R_j, without division by the standard deviation."""
    reward = column(rollouts.table, "reward").view(-1, run.rollout.completions)
    return reward - reward.mean(dim=1, keepdim=True)


def _diagnostics(
    rollouts: Rollouts, run: SimpleNamespace, log_weight: Tensor, before: float, after: float
) -> dict[str, float]:
    ess = effective_sample_size(self_normalized(log_weight))
    per_state = column(rollouts.table, "reward").view(log_weight.shape).mean(dim=1)
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
