"""The estimate that `snakemake --dry-run` prints for the jobs that it would run. Torch-free."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.models.flops import ACCELERATORS
from pipeline.settings.params_file import Params
from pipeline.workflow.estimate import UTILISATION, Cost, Estimate, shape_of

TABLES = 2  # up to this many runs have a table each; of more runs, each has a line
UNITS = {False: ("TFLOP", 1e12, "core minutes", 60), True: ("PFLOP", 1e15, "GPU hours", 3600)}  # on CPUs, on GPUs


def print_estimate(workflow: Any, params: Params) -> None:
    """Print the cost of a dry run's jobs; nothing if there are none, or with `--quiet all`.

    Called when Snakemake exits: while it reads the Snakefile, it does not know yet which jobs are pending.
    """
    quiet = {level.name for level in workflow.output_settings.quiet or ()}
    if not workflow.dryrun or workflow.scheduler is None or "ALL" in quiet:
        return
    pending = workflow.dag.needrun_jobs(exclude_finished=False)
    if text := estimate_table(Counter((job.wildcards_dict.get("run", ""), job.rule.name) for job in pending), params):
        print(f"\n{text}", flush=True)


def estimate_table(pending: Mapping[tuple[str, str], int], params: Params) -> str:
    """A table for each run, or a line for each if they are many; "" if no pending job has an estimate.

    Args:
        pending: (run, rule) -> number of jobs.
    """
    tables: list[str] = []
    totals: dict[bool, dict[str, list[float]]] = {False: {}, True: {}}
    for name in sorted({name for name, _ in pending} & params.runs.keys()):
        run = params.runs[name]
        if not (shape := shape_of(run)):
            continue
        estimate = Estimate(run, params.hardware.of(name, run.model.name), shape)
        costs = estimate.stages().items()
        rows = {stage: _row(estimate, cost, jobs) for stage, cost in costs if (jobs := pending.get((name, stage)))}
        if rows:
            total = totals[estimate.on_gpu][name] = _total(rows.values())
            table = _table("stage", estimate.on_gpu, rows | {"total": total})
            tables.append(f"{name}, estimated: {_assumptions(estimate)}\n{table}")
    if len(tables) > TABLES:
        totals = {on_gpu: runs | {"together": _total(runs.values())} for on_gpu, runs in totals.items() if runs}
        tables = [_table("run, estimated", on_gpu, runs) for on_gpu, runs in totals.items()]
    return "\n\n".join(tables)


def _row(estimate: Estimate, cost: Cost, jobs: int) -> list[float]:
    """The columns of a table for so many jobs of a stage; memory is not added up."""
    _, operations, _, seconds = UNITS[estimate.on_gpu]
    flops = jobs * cost.flops
    return [jobs, flops / operations, flops / estimate.speed / seconds, cost.memory / 1e9, jobs * cost.disk / 1e9]


def _total(rows: Iterable[list[float]]) -> list[float]:
    jobs, flops, time, memory, disk = zip(*rows, strict=True)
    return [sum(jobs), sum(flops), sum(time), max(memory), sum(disk)]


def _assumptions(estimate: Estimate) -> str:
    size, name = estimate.shape.parameters, estimate.hardware.accelerator
    model = f"{size / 1e9:.2f} B parameters" if estimate.on_gpu else f"{size / 1e3:,.0f} k parameters"
    adapters = f", {estimate.adapters / 1e6:.0f} M in adapters" if estimate.adapters else ""
    gpu = f"{name} at {UTILISATION:.0%} of {ACCELERATORS[name] / 1e12:.0f} TFLOP/s"
    where = gpu if estimate.on_gpu else f"one core at {estimate.speed / 1e9:.0f} GFLOP/s"
    return f"{model}{adapters}, {estimate.prompt} + {estimate.answer} tokens, {where}"


def _table(title: str, on_gpu: bool, rows: Mapping[str, list[float]]) -> str:
    flops, _, time, _ = UNITS[on_gpu]
    lines = [[title, "jobs", flops, time, "GB/process", "GB on disk"]]
    lines += [[name, str(jobs), *map(_short, values)] for name, (jobs, *values) in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join(("  " + "  ".join(line)).rstrip() for line in cells)


def _short(value: float) -> str:
    """Two digits: an estimate is not more exact."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"
