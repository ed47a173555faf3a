"""The contents of metrics.json, for one run, and of data/results/SUITE.json, for the runs of a suite.

Names of metrics are the task's own, so a `TypedDict` cannot list them: where metrics stand beside other keys of an
object, `run_metrics.scalars` picks them out.
"""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from pipeline.training.speed import Measured

Summary = dict[str, float]
"""Mean of every metric, its standard error as `<metric>_se`, and `n`: the number of items or seeds."""


class Sampled(TypedDict):
    """An answer to show, as its task renders it; beside these keys, its metrics once more.

    `marks` of a task that has some: puzzle, answer or reference -> name of the mark -> places of its characters.
    """

    puzzle: str
    answer: str
    reference: str
    item: int
    group: str
    metrics: dict[str, float]
    marks: NotRequired[dict[str, dict[str, list[int]]]]


class Evaluation(TypedDict):
    """One split decoded by one sampler; beside these keys, the `Summary` over its items."""

    groups: dict[str, Summary]
    samples: list[Sampled]


class EvaluatedRound(TypedDict):
    """All evaluations of a round: split -> sampler -> evaluation."""

    round: int
    splits: dict[str, dict[str, Evaluation]]


class Round(TypedDict):
    """One round of training. The diagnostics of its rollouts stand beside these keys; where it is evaluated, also the
    metrics that the run is judged by on the test split, and the exact KL."""

    round: int
    loss: float | None
    losses: list[float]
    seconds: dict[str, float]
    cpu_seconds: float


class Result(TypedDict):
    """One evaluation with what it depends on; `stages.evaluate` writes more keys than these."""

    round: int
    split: str
    sampler: str
    length: int
    hardware: str
    versions: dict[str, str]
    metrics: Summary


class Timing(TypedDict):
    """What a stage writes about itself: times in seconds since the epoch."""

    started: float
    ready: float
    finished: float
    cpu_seconds: float
    measured: NotRequired[Measured]


class RunTime(TypedDict):
    """Where a run's time went, in seconds, and speed by stage: see `run_metrics.run_time`."""

    computing: float
    waiting: float
    waiting_share: float
    cpu_seconds: float
    speed: dict[str, dict[str, float]]


class RunMetrics(TypedDict):
    """metrics.json. `dvc metrics` shows the numbers in objects and leaves out those in lists."""

    run: str
    task: str
    git: str
    base: Summary
    final: Summary
    sampler: str
    cache: NotRequired[str]
    selected: Summary | None
    exact: dict[int, Summary]
    rounds: list[Round]
    rollouts: int
    base_loss: list[float]
    evaluations: list[EvaluatedRound]
    results: list[Result]
    disk: dict[str, int]
    time: RunTime


Published = Mapping[str, Sequence[float]]
"""Metric -> (base, final) as somebody else has published them."""


class FamilyRow(TypedDict):
    """Runs that differ only in the seed, averaged: see `seed_average.family_row`."""

    run: str
    task: str
    headline: str
    cache: NotRequired[str]
    final: Summary
    base: Summary
    n: float
    rollouts: float
    rollouts_se: float
    cpu_seconds: float
    cpu_seconds_se: float
    seeds: list[float]
    by_seed: NotRequired[dict[str, Summary]]
    splits: dict[str, Summary]
    lengths: dict[str, Summary]
    base_lengths: dict[str, Summary]
    published: Published
    curve: list[Summary]


class EstimatorRow(TypedDict):
    """A row of estimators.json, which `stages.estimators` writes."""

    policy: str
    completions: int
    estimator: str
    bias: float
    bias_noise: float
    variance: float


class SuiteResult(TypedDict):
    """data/results/SUITE.json; `estimators` are those of each enumerated task."""

    suite: str
    git: list[str]
    hardware: list[str]
    versions: dict[str, str]
    rows: list[FamilyRow]
    estimators: dict[str, list[EstimatorRow]]
