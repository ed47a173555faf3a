"""The estimate that `snakemake --dry-run` prints, from the jobs that it would run. Torch-free."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.models.flops import ACCELERATORS
from pipeline.settings.params_file import Params
from pipeline.workflow.estimate import UTILISATION, Cost, Estimate, shape_of

TABLES = 2
"""So many runs have a table each; of more, each has a line."""


def print_estimate(workflow: Any, params: Params) -> None:
    """Print what the jobs of a dry run would cost; nothing if there are none, or with `--quiet all`.

    To be called when Snakemake ends: while it reads the Snakefile it knows neither the targets nor what is done.
    """
    quiet = {level.name for level in workflow.output_settings.quiet or ()}
    if not workflow.dryrun or workflow.scheduler is None or "ALL" in quiet:
        return
    pending = workflow.dag.needrun_jobs(exclude_finished=False)
    if text := estimate_table(Counter((job.wildcards_dict.get("run", ""), job.rule.name) for job in pending), params):
        print(f"\n{text}", flush=True)


def estimate_table(pending: Mapping[tuple[str, str], int], params: Params) -> str:
    """A table for each run, or a line for each if they are many; "" if no job computes with a known model.

    Args:
        pending: (run, rule) -> how many jobs of it.
    """
    estimates = {}
    for name in dict.fromkeys(name for name, _ in sorted(pending) if name in params.runs):
        run = params.runs[name]
        if shape := shape_of(run):
            estimates[name] = Estimate(run, params.hardware.of(name, run.model.name), shape)
    rows = {name: _rows(name, estimate, pending) for name, estimate in estimates.items()}
    rows = {name: found for name, found in rows.items() if found}
    if len(rows) <= TABLES:
        return "\n\n".join(_table(name, estimates[name], found) for name, found in rows.items())
    return _summary({name: (estimates[name], found) for name, found in rows.items()})


Row = tuple[str, int, Cost]
"""Stage, number of jobs, and their cost together: the memory is that of one."""


def _rows(name: str, estimate: Estimate, pending: Mapping[tuple[str, str], int]) -> list[Row]:
    return [
        (stage, count, Cost(count * cost.flops, cost.memory, count * cost.disk))
        for stage, cost in estimate.stages().items()
        if (count := pending.get((name, stage), 0))
    ]


def _total(rows: Sequence[Row]) -> Cost:
    costs = [cost for _, _, cost in rows]
    return Cost(sum(cost.flops for cost in costs), max(cost.memory for cost in costs), sum(cost.disk for cost in costs))


def _table(name: str, estimate: Estimate, rows: Sequence[Row]) -> str:
    total: Row = ("total", sum(count for _, count, _ in rows), _total(rows))
    lines = [[stage, str(count), *_cells(estimate, cost)] for stage, count, cost in [*rows, total]]
    head = ["stage", "jobs", *_units(estimate)]
    return "\n".join([f"{name}, estimated: {_basis(estimate)}", *_aligned([head, *lines])])


def _summary(runs: Mapping[str, tuple[Estimate, Sequence[Row]]]) -> str:
    """Runs on CPUs and on GPUs apart, each with a sum."""
    blocks = []
    for on_gpu in (False, True):
        here = {name: run for name, run in runs.items() if run[0].on_gpu == on_gpu}
        if here:
            estimate = next(iter(here.values()))[0]
            lines = [[name, *_cells(each, _total(rows))] for name, (each, rows) in here.items()]
            together = _total([row for _, rows in here.values() for row in rows])
            hours = sum(_hours(each, _total(rows)) for each, rows in here.values())
            lines += [["together", *_cells(estimate, together, hours)]]
            head = ["run, estimated", *_units(estimate)]
            blocks.append("\n".join(_aligned([head, *lines])))
    return "\n\n".join(blocks)


def _basis(estimate: Estimate) -> str:
    """What the numbers assume."""
    size = estimate.shape.parameters
    model = f"{size / 1e9:.2f} B parameters" if estimate.on_gpu else f"{size / 1e3:,.0f} k parameters"
    adapters = f", {estimate.adapters / 1e6:.0f} M in adapters" if estimate.adapters else ""
    where = f"one core at {estimate.speed / 1e9:.0f} GFLOP/s"
    if estimate.on_gpu:
        name = estimate.hardware.accelerator
        where = f"{name} at {UTILISATION:.0%} of {ACCELERATORS[name] / 1e12:.0f} TFLOP/s"
    return f"{model}{adapters}, {estimate.prompt} + {estimate.answer} tokens, {where}"


def _units(estimate: Estimate) -> tuple[str, str, str, str]:
    spent = ("PFLOP", "GPU hours") if estimate.on_gpu else ("TFLOP", "core minutes")
    return *spent, "GB/process", "GB on disk"


def _hours(estimate: Estimate, cost: Cost) -> float:
    return cost.flops / estimate.speed / (3600 if estimate.on_gpu else 60)


def _cells(estimate: Estimate, cost: Cost, hours: float | None = None) -> list[str]:
    spent = _hours(estimate, cost) if hours is None else hours
    unit = 1e15 if estimate.on_gpu else 1e12
    return [_short(value) for value in (cost.flops / unit, spent, cost.memory / 1e9, cost.disk / 1e9)]


def _short(value: float) -> str:
    """Two digits are all that an estimate can mean."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    ]
