"""What algorithms share in rule `adjoint`, where rollouts become weighted rows to learn from."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.ctmc.weights import effective_sample_size
from pipeline.runtime.random_streams import Stream, generator
from pipeline.settings.sections import Rollout
from pipeline.settings.stages import AdjointSettings
from pipeline.storage.parquet import ROLLOUTS, TARGETS, Column, matrix


@dataclass(frozen=True)
class Rollouts:
    """One round's rollouts and what their weights may be computed from.

    Attributes:
        table: the rows, the K completions of a state one after the other.
        reference: rows of `parquet.REFERENCES`, in the same order: log p^base of all rollouts, or of some.
        previous: the targets of the round before, None in round 1.
        settings: what rule `adjoint` reads.
    """

    table: pa.Table
    reference: pa.Table
    previous: pa.Table | None
    settings: AdjointSettings

    @property
    def reward(self) -> Float[Tensor, "g K"]:
        return self.in_groups(column(self.table, "reward"))

    @property
    def rewards_differ(self) -> Bool[Tensor, " g"]:
        """The groups that can teach which completions are better."""
        return self.reward.amax(dim=1) > self.reward.amin(dim=1)

    @property
    def replayed(self) -> Int[Tensor, " r"]:
        """The rows of the table that the reference has."""
        places = column(self.reference, "state_id") * self.settings.rollout.completions
        return (places + column(self.reference, "sample_id")).long()

    @property
    def spent(self) -> float:
        """The sum of the steps of all rounds before this one."""
        return 0.0 if self.previous is None else float(column(self.previous, "spent")[-1])

    @cached_property
    def base_log_ratio(self) -> Float[Tensor, " r"]:
        """Σ_s Σ_{i∈S_s} [log p^base - log p^u](x_i | x_s) of the replayed rows; p^u is the law sampled, as recorded."""
        recorded = matrix(self.table.take(self.replayed.numpy()), "log_prob", 0, side="right")
        reference = matrix(self.reference, "base_log_prob", 0, side="right")
        return torch.from_numpy(reference - recorded).double().sum(dim=1)

    def in_groups(self, values: Float[Tensor, " rows"]) -> Float[Tensor, "g K"]:
        """One row for each state, one column for each of its K completions."""
        return values.view(-1, self.settings.rollout.completions)

    def window(self, replay_rounds: int) -> pa.Table:
        """The targets of the last replay_rounds - 1 rounds, which are used again in this one."""
        if self.previous is None:
            return TARGETS.empty_table()
        oldest = self.table.column("round")[0].as_py() - replay_rounds + 1
        return self.previous.filter(np.asarray(self.previous.column("round")) >= oldest)


@dataclass(frozen=True)
class Weights:
    """Columns of `parquet.TARGETS`, [rows]: first the rows that the replay window keeps, then this round's.

    Attributes:
        log_ratio, step, log_weight: None where the method has none; the column is then 0.
        report: what the method says about its step, for metrics.json.
    """

    weight: Float[Tensor, " rows"]
    log_ratio: Float[Tensor, " rows"] | None = None
    step: Float[Tensor, " rows"] | None = None
    log_weight: Float[Tensor, " rows"] | None = None
    spent: float = 0.0
    report: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Targets:
    """The columns of `parquet.TARGETS`, and the round's diagnostics."""

    columns: dict[str, Column]
    diagnostics: dict[str, float]


def column(table: pa.Table, name: str) -> Float[Tensor, " rows"]:
    """A column of numbers, in float64."""
    return torch.from_numpy(table.column(name).to_numpy().astype(np.float64))


def targets_from_weights(rollouts: Rollouts, older: pa.Table, weights: Weights) -> Targets:
    """The `older` rows and then this round's, with their weights ≥ 0; diagnostics of this round's."""
    ess = _sample_sizes(rollouts.in_groups(weights.weight[len(older) :]))
    return Targets(_columns(rollouts.table, older, weights), _diagnostics(rollouts) | ess | weights.report)


def targets_of_this_round(
    rollouts: Rollouts, weight: Float[Tensor, "g K"], log_ratio: Float[Tensor, " rows"] | None = None
) -> Targets:
    """This round's rows alone, with numbers that have no effective sample size, such as advantages."""
    weights = Weights(weight.flatten(), log_ratio)
    return Targets(_columns(rollouts.table, TARGETS.empty_table(), weights), _diagnostics(rollouts))


def _columns(table: pa.Table, older: pa.Table, weights: Weights) -> dict[str, Column]:
    columns: dict[str, Column] = {
        name: pa.chunked_array([*older.column(name).chunks, *table.column(name).chunks]) for name in ROLLOUTS.names
    }
    for name in ("log_ratio", "step", "log_weight", "weight"):
        values = getattr(weights, name)
        columns[name] = np.zeros(len(weights.weight)) if values is None else values.numpy()
    columns["spent"] = np.full(len(weights.weight), weights.spent)
    return columns


def rows_to_replay(rollout: Rollout, wanted: int, seed: int, round_: int) -> np.ndarray:
    """`wanted` rows of a round at random, by their place in the order of states and samples."""
    rng = generator(seed, Stream.KL, round_)
    return np.sort(rng.permutation(rollout.prompts * rollout.completions)[:wanted])


def _sample_sizes(weight: Float[Tensor, "g K"]) -> dict[str, float]:
    """Effective sample sizes of groups of weights ≥ 0, whatever their sum."""
    ess = effective_sample_size(weight / weight.mean(dim=1, keepdim=True))
    return {
        "ess_mean": float(ess.mean()),
        "ess_min": float(ess.min()),
        "ess_below_2": float((ess < 2).double().mean()),
    }


def _diagnostics(rollouts: Rollouts) -> dict[str, float]:
    state = column(rollouts.table, "state_id").long()
    reward, reward_se = mean_and_error(column(rollouts.table, "reward"), state)
    kl, kl_se = mean_and_error(-rollouts.base_log_ratio, state[rollouts.replayed])
    return {
        "reward_mean": reward,
        "reward_se": reward_se,
        "flat_groups": float((~rollouts.rewards_differ).double().mean()),
        "kl_to_base": kl,
        "kl_to_base_se": kl_se,
    }


def mean_and_error(values: Float[Tensor, " n"], group: Int[Tensor, " n"]) -> tuple[float, float]:
    """The mean and its standard error, where values of one group (completions of one state) depend on each other.

    With residuals summed within each of G groups, R_g: se = √(G/(G - 1) Σ_g R_g²)/n. For groups of one size this is
    s/√G of the groups' means; 0 for a single group.
    """
    mean = values.mean()
    groups, index = group.unique(return_inverse=True)
    residual = torch.zeros(len(groups), dtype=values.dtype).index_add(0, index, values - mean)
    count = len(groups)
    error = (residual.square().sum() * count / max(1, count - 1)).sqrt() / len(values)
    return float(mean), float(error)
