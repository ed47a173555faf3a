"""A run's numbers, gathered from the files of its stages: what metrics.json holds and the report shows."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.settings.run import Run
from pipeline.storage.atomic_files import read_json
from pipeline.storage.provenance import git_revision
from pipeline.training.speed import speed
from pipeline.workflow.retention import disk_use

EXACT = ("kl", "kl_jump_1", "kl_jump_2")
"""What `evaluation.exact_kl` gives for enumerated tasks."""

PAUSE = 60.0
"""Seconds without any stage after which the workflow counts as stopped, not as slow."""

MEASURED = ("rollout", "train")
"""The stages that measure how fast they are."""
TIMING = ("started", "ready", "finished", "cpu_seconds")
"""What every stage writes about itself."""
Timings = list[tuple[str, dict[str, Any]]]
"""Stages with what they wrote."""

DIAGNOSTICS = (
    "reward_mean",
    "reward_se",
    "ess_mean",
    "ess_min",
    "ess_below_2",
    "log_weight_mean",
)
"""What an algorithm says about a round's targets, of which the report shows at least these."""

SHARED = ("prepare", "base")
"""The stages whose results a run may have from its origin."""


def gather_metrics(run: Path, origin: Path, settings: Run) -> dict[str, Any]:
    """All numbers of a run. `base` and `final` are greedy decoding on the test split; `final` is the method's own
    decoding where that is all it does.

    `selected` is the round that the validation split chooses, by `selected`; None without one.

    The time of its data and base model is counted in, whether they were made for this run or for its `origin`. What
    stages have left behind under other settings (rounds, shards, evaluations that are no longer asked for) is not.
    """
    evaluations: dict[int, Any] = {}
    rounds: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    evaluated = settings.evaluate.rounds(settings.rounds)
    timings = _timings(origin, SHARED)
    if (run / "timings" / "joint.json").exists():
        timings += _timings(run, ["joint"])
    for number in range(settings.rounds + 1):
        folder = run / f"round_{number:03d}"
        entry: dict[str, Any] = {"round": number}
        losses = read_json((folder if number else origin / folder.name) / "train.json", "losses")["losses"]
        entry["loss"] = sum(losses) / len(losses) if losses else None
        entry["losses"] = losses
        if number:
            entry |= read_json(folder / "adjoint.json", *DIAGNOSTICS)
        if number in evaluated:
            evaluation = read_json(folder / "evaluation.json", "splits", "exact", "rows")
            evaluations[number] = evaluation["splits"]
            results += [{"round": number, **row} for row in evaluation["rows"]]
            entry |= scalars(evaluations[number]["test"]["greedy"]) | evaluation["exact"]
        of_round = _timings(run, _stages(number, settings.rollout.shards, number in evaluated))
        timings += of_round
        entry["seconds"], entry["cpu_seconds"] = _spent(of_round)
        rounds.append(entry)
    sampler = "greedy" if settings.algorithm.trains else "ancestral"
    return {
        "run": run.name,
        "task": settings.task.name,
        "git": git_revision(),
        "base": _headline(rounds[0], evaluations, "greedy"),
        "final": _headline(rounds[-1], evaluations, sampler),
        "sampler": sampler,
        "selected": selected(evaluations),
        "exact": {entry["round"]: {key: entry[key] for key in EXACT} for entry in rounds if EXACT[0] in entry},
        "rounds": rounds[1:],
        "rollouts": settings.rounds * settings.rollout.trajectories,
        "base_loss": rounds[0]["losses"],
        "evaluations": evaluations,
        "results": results,
        "disk": disk_use(run),
        "time": wall_time([timing for _, timing in timings]) | {"speed": _speeds(timings)},
    }


def _headline(entry: dict[str, Any], evaluations: dict[int, Any], sampler: str) -> dict[str, float]:
    exact = {key: entry[key] for key in EXACT if key in entry}
    return scalars(evaluations[entry["round"]]["test"][sampler]) | exact


def selected(evaluations: Mapping[int, Any]) -> dict[str, float] | None:
    """The evaluated round whose headline metric is best on the validation split, the earliest of equals.

    The rule is fixed beforehand and never looks at the test split, whose numbers it gives.
    """
    held_out = {
        number: splits["validation"]["greedy"] for number, splits in evaluations.items() if "validation" in splits
    }
    if not held_out:
        return None
    name = headline(scalars(held_out[0]))
    best = max(held_out, key=lambda number: (held_out[number][name], -number))
    return {"round": best, f"validation_{name}": held_out[best][name], **scalars(evaluations[best]["test"]["greedy"])}


def scored(evaluation: Mapping[str, float]) -> list[str]:
    """The names of the scorer's metrics that are shown: the reward only where it is alone."""
    names = [name for name in evaluation if f"{name}_se" in evaluation and name not in EXACT]
    return [name for name in names if name != "reward"] or names


def numbers(evaluation: Mapping[str, float]) -> dict[str, float]:
    """An evaluation's metrics, without their errors over items."""
    return {name: evaluation[name] for name in (*scored(evaluation), *EXACT) if name in evaluation}


def headline(evaluation: Mapping[str, float]) -> str:
    """What a run is judged by: the exact KL where there is one, else the scorer's last metric."""
    return EXACT[0] if EXACT[0] in evaluation else scored(evaluation)[-1]


def wall_time(stages: Sequence[dict[str, float]]) -> dict[str, float]:
    """Where the wall time went, in seconds.

    `computing` is the time during which at least one stage was computing; `waiting` the rest of the time between
    the first stage's start and the last one's end (process starts, imports, scheduling), pauses of the whole
    workflow left out; `waiting_share` = waiting / (computing + waiting).
    """
    computing = _union([(stage["ready"], stage["finished"]) for stage in stages])
    gaps = [after[0] - before[1] for before, after in pairwise(computing)]
    busy = sum(end - begin for begin, end in computing)
    first = min(stage["ready"] - stage["started"] for stage in stages if stage["ready"] == computing[0][0])
    waiting = first + sum(gap for gap in gaps if gap < PAUSE)
    return {
        "computing": busy,
        "waiting": waiting,
        "waiting_share": waiting / (busy + waiting),
        "cpu_seconds": sum(stage["cpu_seconds"] for stage in stages),
    }


def _union(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _speeds(timings: Timings) -> dict[str, dict[str, float]]:
    """`speed` of sampling and of training, over all rounds."""
    measured = {
        stage: [timing["measured"] for name, timing in timings if name == stage and "measured" in timing]
        for stage in MEASURED
    }
    return {stage: speed(found) for stage, found in measured.items() if found}


def _stages(number: int, shards: int, evaluated: bool) -> list[str]:
    """What the timings of a round's stages are called."""
    names = [f"evaluate_{number:03d}"] if evaluated else []
    if number:
        names += [f"{stage}_{number:03d}_{shard:02d}" for stage in ("rollout", "reference") for shard in range(shards)]
        names += [f"adjoint_{number:03d}", f"train_{number:03d}"]
    return names


def _timings(run: Path, names: Sequence[str]) -> Timings:
    return [(name.split("_")[0], read_json(run / "timings" / f"{name}.json", *TIMING)) for name in names]


def _spent(timings: Timings) -> tuple[dict[str, float], float]:
    """Seconds per stage of a round, shards that ran side by side added up, and CPU seconds of learning in it."""
    seconds: dict[str, float] = {}
    cpu = 0.0
    for stage, timing in timings:
        seconds[stage] = seconds.get(stage, 0.0) + timing["finished"] - timing["ready"]
        cpu += timing["cpu_seconds"] if stage != "evaluate" else 0.0
    return seconds, cpu


def scalars(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """An evaluation without its groups and samples."""
    return {key: value for key, value in evaluation.items() if not isinstance(value, dict | list)}
