"""The estimate that `snakemake --dry-run` prints for the jobs that it would run. Torch-free.

`minutes` or `hours` is the time until all jobs of a stage are done, with the cores and devices that Snakemake is given.
`GB on disk` is what is left of their files at the end: `keep` in params.yaml removes those of earlier rounds.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.models.flops import CARDS
from pipeline.settings.params_file import Params
from pipeline.settings.project import Keep
from pipeline.workflow.estimate import GPU_FROM, UTILISATION, Cost, Estimate, shape_of
from pipeline.workflow.machine import Machine, jobs_of_round, machine_of

TABLES = 2  # up to this many runs have a table each; of more runs, each has a line
UNITS = {False: ("TFLOP", 1e12, "core minutes", 60), True: ("PFLOP", 1e15, "GPU hours", 3600)}  # on CPUs, on GPUs
WALL = 3  # the column of that time; the column before it is the sum over cores or GPUs


def print_estimate(workflow: Any, params: Params, devices: int) -> None:
    """Print the cost of a dry run's jobs; nothing if there are none, or with `--quiet all`.

    Called when Snakemake exits: while it reads the Snakefile, it does not know yet which jobs are pending.
    """
    quiet = {level.name for level in workflow.output_settings.quiet or ()}
    if not workflow.dryrun or workflow.scheduler is None or "ALL" in quiet:
        return
    pending = list(workflow.dag.needrun_jobs(exclude_finished=False))
    machine = machine_of(workflow.resource_settings, devices, pending)
    jobs = Counter((job.wildcards_dict.get("run", ""), job.rule.name) for job in pending)
    if text := estimate_table(jobs, params, machine):
        print(f"\n{text}", flush=True)


def estimate_table(pending: Mapping[tuple[str, str], int], params: Params, machine: Machine) -> str:
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
        hardware = machine.hardware(params.hardware.of(name, run.model.name), shape.parameters >= GPU_FROM)
        estimate = Estimate(run, hardware, shape)
        costs = {stage: cost for stage, cost in estimate.stages().items() if pending.get((name, stage))}
        rows = {
            stage: _row(estimate, machine, params.keep, stage, cost, pending[name, stage])
            for stage, cost in costs.items()
        }
        if rows:
            total = totals[estimate.on_gpu][name] = _total(rows.values())
            table = _table("stage", estimate.on_gpu, rows | {"total": total})
            tables.append(f"{name}, estimated: {_assumptions(estimate, machine)}\n{table}")
    if len(tables) > TABLES:
        for on_gpu, runs in totals.items():
            if runs:
                runs["together"] = _together(runs.values(), machine.capacity(params.hardware, on_gpu))
        tables = [_table("run, estimated", on_gpu, runs) for on_gpu, runs in totals.items() if runs]
    return "\n\n".join(tables)


def _row(estimate: Estimate, machine: Machine, keep: Keep, stage: str, cost: Cost, jobs: int) -> list[float]:
    """The columns of a table for `jobs` jobs of a stage; memory is that of one process."""
    _, operations, _, unit = UNITS[estimate.on_gpu]
    flops, on_gpu = jobs * cost.flops, estimate.on_gpu
    time = flops / estimate.speed / unit
    wall = machine.wall_time(time, jobs, stage, estimate.run, estimate.hardware, on_gpu)
    disk = left_on_disk(cost, jobs, jobs_of_round(estimate.run, stage), keep)
    return [jobs, flops / operations, time, wall, cost.memory / 1e9, disk / 1e9]


def left_on_disk(cost: Cost, jobs: int, of_round: int, keep: Keep) -> float:
    """Bytes that `jobs` jobs of a stage, `of_round` for each of the last rounds, leave when the run has ended."""
    total = 0.0
    for kind, size in cost.disk.items():
        count = getattr(keep, kind, "all")  # policies stay
        total += size * (min(jobs, count * of_round) if isinstance(count, int) else jobs)
    return total


def _total(rows: Collection[list[float]]) -> list[float]:
    """The sum of the rows of stages that run one after the other; of memory the largest."""
    jobs, flops, time, wall, memory, disk = zip(*rows, strict=True)
    return [sum(jobs), sum(flops), sum(time), sum(wall), max(memory), sum(disk)]


def _together(rows: Collection[list[float]], capacity: int) -> list[float]:
    """The sum of the rows of runs that fill each other's gaps. Together they take as long as the longest run, or as all
    their work takes on all GPUs or cores."""
    total = _total(rows)
    total[WALL] = max(total[WALL - 1] / capacity, *(row[WALL] for row in rows))
    return total


def _assumptions(estimate: Estimate, machine: Machine) -> str:
    size, name = estimate.shape.parameters, estimate.hardware.accelerator
    model = f"{size / 1e9:.2f} B parameters" if estimate.on_gpu else f"{size / 1e3:,.0f} k parameters"
    number = f"{estimate.adapters / 1e6:.0f} M" if estimate.adapters >= 1e6 else f"{estimate.adapters / 1e3:,.0f} k"
    adapters = f", {number} in adapters" if estimate.adapters else ""
    gpu = f"{name} at an assumed {UTILISATION:.0%} of {CARDS[name].flops / 1e12:.0f} TFLOP/s"
    where = gpu if estimate.on_gpu else f"one core at {estimate.speed / 1e9:.0f} GFLOP/s"
    jobs = machine.at_once(estimate.hardware, estimate.on_gpu)
    side_by_side = f"{jobs} job{'s' * (jobs > 1)} at once"
    return f"{model}{adapters}, {estimate.prompt} + {estimate.answer} tokens, {where}, {side_by_side}"


def _table(title: str, on_gpu: bool, rows: Mapping[str, list[float]]) -> str:
    flops, _, time, _ = UNITS[on_gpu]
    lines = [[title, "jobs", flops, time, time.split()[1], "GB/process", "GB on disk"]]
    lines += [[name, str(jobs), *map(_short, values)] for name, (jobs, *values) in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join(("  " + "  ".join(line)).rstrip() for line in cells)


def _short(value: float) -> str:
    """Two digits: an estimate is not more exact."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"
