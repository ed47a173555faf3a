"""Families of runs whose seeds were computed on several machines: their numbers over all seeds."""

import math
from collections.abc import Sequence
from typing import cast

from pipeline.errors import PipelineError
from pipeline.report.json_types import FamilyRow, Summary
from pipeline.tasks.base import is_statistic

EFFORT = ("n", "rollouts", "rollouts_se", "cpu_seconds", "cpu_seconds_se")


def pooled(rows: Sequence[FamilyRow]) -> list[FamilyRow]:
    """The rows with those of one family merged, in the order in which the families first occur.

    Raises:
        PipelineError: if two rows of a family have a seed in common or do not name their seeds, have other metrics, or
            were evaluated after other rounds.
    """
    families: dict[str, FamilyRow] = {}
    for row in rows:
        known = families.get(row["run"])
        families[row["run"]] = row if known is None else _merged(known, row)
    return list(families.values())


def pooled_summary(*parts: Summary) -> Summary:
    """Mean and standard error over all seeds, from those over disjoint sets of them.

    Part i has n_i seeds with mean m_i and error e_i = s_i/√n_i. Then n = Σ n_i, m = Σ n_i m_i / n, and
    n (n - 1) e² = Σ [n_i (n_i - 1) e_i² + n_i (m_i - m)²], the sum of all squared deviations from m.

    Raises:
        PipelineError: if the parts have other metrics.
    """
    if any(part.keys() != parts[0].keys() for part in parts):
        raise PipelineError(f"one file has the metrics {', '.join(parts[0])}, another {', '.join(parts[-1])}")
    count = sum(part["n"] for part in parts)
    found = dict(parts[0])
    for name in [name for name in found if not is_statistic(name)]:
        found[name] = mean = math.fsum(part["n"] * part[name] for part in parts) / count
        if f"{name}_se" in found:
            within = math.fsum(part["n"] * (part["n"] - 1) * part[f"{name}_se"] ** 2 for part in parts)
            between = math.fsum(part["n"] * (part[name] - mean) ** 2 for part in parts)
            found[f"{name}_se"] = math.sqrt((within + between) / (count * (count - 1)))
    return found | {"n": count}


def _merged(one: FamilyRow, other: FamilyRow) -> FamilyRow:
    known, more = one.get("by_seed", {}), other.get("by_seed", {})
    if not known or not more:
        raise PipelineError(f"two files have {one['run']}, and one of them does not name its seeds")
    if shared := sorted(known.keys() & more.keys()):
        raise PipelineError(f"two files have {one['run']}" + (f" with seed {shared[0]}" if shared[0] else ""))
    rounds, others = ([int(point["round"]) for point in row["curve"]] for row in (one, other))
    if rounds != others:
        raise PipelineError(f"{one['run']} was evaluated after rounds {rounds} in one file, {others} in another")
    effort = pooled_summary(*({name: cast(Summary, row)[name] for name in EFFORT} for row in (one, other)))
    merged = {
        **one,
        **effort,
        "final": pooled_summary(one["final"], other["final"]),
        "base": pooled_summary(one["base"], other["base"]),
        "seeds": [*one["seeds"], *other["seeds"]],
        "by_seed": {**known, **more},
        "splits": _each(one["splits"], other["splits"]),
        "lengths": _each(one["lengths"], other["lengths"]),
        "base_lengths": _each(one["base_lengths"], other["base_lengths"]),
        "curve": [pooled_summary(*points) for points in zip(one["curve"], other["curve"], strict=True)],
    }
    return cast(FamilyRow, merged)


def _each(one: dict[str, Summary], other: dict[str, Summary]) -> dict[str, Summary]:
    return {title: pooled_summary(summary, other[title]) for title, summary in one.items() if title in other}
