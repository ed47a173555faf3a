"""Rule `adjoint`: rollouts become weighted rows to learn from. This is what the algorithms share on that way."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.ctmc.weights import effective_sample_size, self_normalized
from pipeline.runtime.random_streams import Stream, generator
from pipeline.settings.algorithms import Frozen
from pipeline.settings.stages import AdjointSettings
from pipeline.storage.parquet import ROLLOUTS, TARGETS, Column, matrix

LogProb = Callable[[Frozen, pa.Table, float], Tensor]


@dataclass(frozen=True)
class Rollouts:
    """One round's rollouts and what their weights may be computed from.

    Attributes:
        table: the rows, the K completions of a state one after the other.
        previous: the targets of the round before, None in round 1.
        settings: what rule `adjoint` reads.
        log_prob: (policy, rows, temperature) -> log p(x_i | x_s, i) along the stored paths, [rows, L], by teacher
            forcing under the base, or under the behavior policy, which drew the rollouts.
    """

    table: pa.Table
    previous: pa.Table | None
    settings: AdjointSettings
    log_prob: LogProb

    @property
    def reward(self) -> Float[Tensor, "g K"]:
        return self.in_groups(column(self.table, "reward"))

    def in_groups(self, values: Float[Tensor, " rows"]) -> Float[Tensor, "g K"]:
        """One row for each state, one column for each of its K completions."""
        return values.view(-1, self.settings.rollout.completions)


@dataclass(frozen=True)
class Targets:
    """The columns of `parquet.TARGETS`, and the round's diagnostics."""

    columns: dict[str, Column]
    diagnostics: dict[str, float]


def column(table: pa.Table, name: str) -> Float[Tensor, " rows"]:
    """A column of numbers, in float64."""
    return torch.from_numpy(table.column(name).to_numpy().astype(np.float64))


def rows_in_window(rollouts: Rollouts, replay_rounds: int) -> pa.Table:
    """The targets of the last replay_rounds - 1 rounds, which are used again in this one."""
    if rollouts.previous is None:
        return TARGETS.empty_table()
    oldest = rollouts.table.column("round")[0].as_py() - replay_rounds + 1
    return rollouts.previous.filter(np.asarray(rollouts.previous.column("round")) >= oldest)


def path_log_ratio(rollouts: Rollouts, reference: Frozen) -> Float[Tensor, " rows"]:
    """Σ_s Σ_{i∈S_s} [log p^reference(x_i | x_s) - log p^u(x_i | x_s)], with p^u as recorded: the law really sampled."""
    recorded = torch.from_numpy(matrix(rollouts.table, "log_prob"))
    return (rollouts.log_prob(reference, rollouts.table, 1.0) - recorded).double().sum(dim=1)


def targets_from_weights(
    rollouts: Rollouts,
    *,
    older: pa.Table,
    log_ratio: Float[Tensor, " rows"],
    tilt_before: Float[Tensor, " rows"],
    tilt_after: float,
    log_weight: Float[Tensor, "g K"],
    weight: Float[Tensor, "g K"],
) -> Targets:
    """The `older` rows and then this round's, with weights for all of them; diagnostics of this round's."""
    table = rollouts.table
    columns: dict[str, Column] = {
        name: pa.chunked_array([*older.column(name).chunks, *table.column(name).chunks]) for name in ROLLOUTS.names
    }
    columns |= {
        "log_ratio": log_ratio.numpy(),
        "tilt_before": tilt_before.numpy(),
        "tilt_after": np.full(len(log_ratio), tilt_after),
        "log_weight": log_weight.flatten().numpy(),
        "weight": weight.flatten().numpy(),
    }
    new = log_weight[len(log_weight) - len(rollouts.reward) :]
    return Targets(columns, _diagnostics(rollouts, new, float(tilt_before[-1]), tilt_after))


def targets_of_this_round(rollouts: Rollouts, weight: Float[Tensor, "g K"]) -> Targets:
    """This round's rows alone, with weights that are no importance weights, such as advantages."""
    zero = torch.zeros(weight.numel(), dtype=torch.float64)
    return targets_from_weights(
        rollouts,
        older=TARGETS.empty_table(),
        log_ratio=zero,
        tilt_before=zero,
        tilt_after=0.0,
        log_weight=zero.view(weight.shape),
        weight=weight,
    )


def _diagnostics(rollouts: Rollouts, log_weight: Tensor, before: float, after: float) -> dict[str, float]:
    ess = effective_sample_size(self_normalized(log_weight))
    per_state = rollouts.reward.mean(dim=1)
    kl, kl_se = _kl_to_base(rollouts)
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


def _kl_to_base(rollouts: Rollouts) -> tuple[float, float]:
    """KL(p^u ‖ p^base) of paths = E[Σ log p^u - log p^base] and its standard error, over a random subset."""
    table, settings = rollouts.table, rollouts.settings
    rng = generator(settings.seed, Stream.KL, table.column("round")[0].as_py())
    subset = table.take(np.sort(rng.permutation(len(table))[: settings.algorithm.kl_rollouts]))
    recorded = torch.from_numpy(matrix(subset, "log_prob"))
    kl = (recorded - rollouts.log_prob("base", subset, 1.0)).double().sum(dim=1)
    return float(kl.mean()), float(kl.std(unbiased=False) / len(kl) ** 0.5)
