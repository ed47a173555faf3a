"""Gathers a run's numbers from the files of its stages: the content of metrics.json, which the report shows."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

from pipeline.evaluation.summary import shown
from pipeline.report.json_types import EvaluatedRound, Result, Round, RunMetrics, RunTime, Summary, Timing
from pipeline.settings.run import Run
from pipeline.settings.sections import judged_by
from pipeline.storage.atomic_files import read_json
from pipeline.storage.provenance import git_revision
from pipeline.tasks.base import EXACT
from pipeline.training.speed import Measured, speed
from pipeline.workflow.retention import disk_use

PAUSE = 60.0
"""If no stage runs for this many seconds, the workflow counts as stopped, not as slow."""
Timings = list[tuple[str, Timing]]
"""(stage, its timing), a stage once for each round and shard."""
DIAGNOSTICS = ("reward_mean", "reward_se", "kl_to_base", "kl_to_base_se")
"""Keys of adjoint.json that the report shows: statistics of a round's rollouts."""
STEPS = {
    "tau": "τ",
    "log_ratio_spread": "spread of log pᵇᵃˢᵉ/pᵘ",
    "reward_spread": "spread of r/α",
    "inverse_alpha_step": "1/α step",
    "inverse_alpha_total": "1/α total",
    "rewards_below_0": "rewards below 0, counted as 0",
}
"""Keys of adjoint.json that only some methods write, with their titles. A spread is the mean over groups of the
standard deviation over the K completions: of the two parts of the log weight ℓ."""


def gather_metrics(run: Path, origin: Path, settings: Run, evaluated: Sequence[int] | None = None) -> RunMetrics:
    """All numbers of a run.

    `base` and `final` are the metrics of `judged_by` on the test split, by default greedy decoding; for an algorithm
    that only decodes, `final` is its own decoding. The time for data and base model is included even if `origin` made
    them. Files of rounds, shards, and evaluations that are not part of the current settings are ignored.

    Args:
        evaluated: the rounds that are evaluated, by default those that the settings ask for.
    """
    evaluations: list[EvaluatedRound] = []
    exact: dict[int, Summary] = {}
    rounds: list[Round] = []
    results: list[Result] = []
    evaluated = settings.evaluate.rounds(settings.rounds) if evaluated is None else evaluated
    judged = judged_by(settings.evaluate.samplers)
    timings = _timings(origin, ["prepare", "base"])
    if (run / "timings" / "joint.json").exists():
        timings += _timings(run, ["joint"])
    for number in range(settings.rounds + 1):
        folder = run / f"round_{number:03d}"
        scores: Summary = {}
        if number in evaluated:
            evaluation = read_json(folder / "evaluation.json", "splits", "exact", "rows")
            evaluations.append({"round": number, "splits": evaluation["splits"]})
            results += [cast(Result, {"round": number, **row}) for row in evaluation["rows"]]
            scores = scalars(evaluation["splits"]["test"][judged]) | evaluation["exact"]
            if evaluation["exact"]:
                exact[number] = evaluation["exact"]
        of_round = _timings(run, timing_names(number, settings, number in evaluated))
        timings += of_round
        rounds.append(_round(number, folder if number else origin / folder.name, scores, of_round))
    sampler = judged if settings.algorithm.trains else "ancestral"
    return {
        "run": run.name,
        "task": settings.task.name,
        "git": git_revision(),
        "base": scalars(evaluations[0]["splits"]["test"][judged]) | exact.get(0, {}),
        "final": scalars(evaluations[-1]["splits"]["test"][sampler]) | exact.get(evaluations[-1]["round"], {}),
        "sampler": sampler,
        "cache": settings.evaluate.cache or "",
        "selected": selected_round(evaluations),
        "exact": exact,
        "rounds": rounds[1:],
        "rollouts": settings.rounds * settings.rollout.trajectories,
        "base_loss": rounds[0]["losses"],
        "evaluations": evaluations,
        "results": results,
        "disk": disk_use(run),
        "time": run_time(timings),
    }


def _round(number: int, folder: Path, scores: Summary, timings: Timings) -> Round:
    """A round's losses, diagnostics, test metrics and time: the seconds of each stage, summed over shards, and the CPU
    seconds of all stages but evaluation.

    A metric never replaces a key of the round: `reward_se` is the error of the rollouts' mean reward, and that of the
    test split stands in the evaluation only.
    """
    losses = read_json(folder / "train.json", "losses")["losses"]
    entry = {"round": number, "loss": sum(losses) / len(losses) if losses else None, "losses": losses}
    if number:
        entry |= read_json(folder / "adjoint.json", *DIAGNOSTICS)
    seconds: dict[str, float] = {}
    cpu_seconds = 0.0
    for stage, timing in timings:
        seconds[stage] = seconds.get(stage, 0.0) + timing["finished"] - timing["ready"]
        cpu_seconds += timing["cpu_seconds"] if stage != "evaluate" else 0.0
    return cast(Round, {**scores, **entry, "seconds": seconds, "cpu_seconds": cpu_seconds})


def selected_round(evaluations: Sequence[EvaluatedRound]) -> Summary | None:
    """The round with the best headline metric on the validation split, the earliest if several are equal, and its
    metrics on the test split, which plays no part in the choice; None without a validation split."""
    splits = {entry["round"]: entry["splits"] for entry in evaluations}
    judged = judged_by(next(iter(splits.values()))["test"])
    on_validation = {k: scalars(found["validation"][judged]) for k, found in splits.items() if "validation" in found}
    if not on_validation:
        return None
    name = headline_metric(on_validation[0])
    best = max(on_validation, key=lambda number: (on_validation[number][name], -number))
    on_test = scalars(splits[best]["test"][judged])
    return {"round": best, f"validation_{name}": on_validation[best][name], **on_test}


def metric_names(evaluation: Mapping[str, float]) -> list[str]:
    """The task's metrics that are shown: `reward` only if it is the only one."""
    return shown(name for name in evaluation if f"{name}_se" in evaluation and name not in EXACT)


def sampler_title(sampler: str) -> str:
    """The name of a sampler in tables and figures, such as "ancestral by confidence"."""
    return sampler.replace("_", " by ")


def metric_values(evaluation: Mapping[str, float]) -> Summary:
    """The metrics that are shown and the exact KL, without standard errors."""
    return {name: evaluation[name] for name in (*metric_names(evaluation), *EXACT) if name in evaluation}


def headline_metric(evaluation: Mapping[str, float]) -> str:
    """The metric by which runs are compared: the exact KL if there is one, else the task's last metric."""
    return EXACT[0] if EXACT[0] in evaluation else metric_names(evaluation)[-1]


def run_time(timings: Timings) -> RunTime:
    """Where the wall time went, in seconds, and the speed of the stages that measure it.

    `computing` is the time during which at least one stage was computing. `waiting` is the rest of the time between
    the first stage's start and the last one's end (process starts, imports, scheduling), without pauses of the whole
    workflow. `waiting_share` = waiting / (computing + waiting).
    """
    stages = [timing for _, timing in timings]
    measured: dict[str, list[Measured]] = {}
    for name, timing in timings:
        if "measured" in timing:
            measured.setdefault(name, []).append(timing["measured"])
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
        "speed": {stage: speed(found) for stage, found in measured.items()},
    }


def _union(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same times as intervals that do not overlap, in order."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def timing_names(number: int, settings: Run, evaluated: bool) -> list[str]:
    """The names of the timings of a round's stages; those of rule `decode` are a part of the evaluation."""

    def shards(stage: str, count: int) -> list[str]:
        return [f"{stage}_{number:03d}_{shard:02d}" for shard in range(count)]

    names = [f"evaluate_{number:03d}"] if evaluated else []
    if evaluated and settings.evaluate.shards > 1:
        names += shards("evaluate", settings.evaluate.shards)
    if number:
        names += shards("rollout", settings.rollout.shards) + shards("reference", settings.rollout.shards)
        names += [f"adjoint_{number:03d}", f"train_{number:03d}"]
    return names


def _timings(run: Path, names: Sequence[str]) -> Timings:
    keys = sorted(Timing.__required_keys__)
    return [(name.split("_")[0], read_json(run / "timings" / f"{name}.json", *keys)) for name in names]


def scalars(content: Mapping[str, object]) -> Summary:
    """The numbers of a JSON object, without its texts, lists and nested objects."""
    return {key: value for key, value in content.items() if isinstance(value, int | float)}
