"""What the Snakefile computes: file names and inputs of its rules, and the commands that start their jobs."""

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.plugins import resolve_task
from pipeline.runtime.devices import NEEDED
from pipeline.settings.run import Run
from pipeline.settings.stages import settings_json

ROUND = "data/runs/{run}/round_{round}"


def check_writable() -> None:
    """PipelineError if a directory that Snakemake writes to is read-only: Snakemake itself would print a traceback."""
    for path in map(Path, (".", ".snakemake", "data", "data/runs")):
        if path.exists() and not os.access(path, os.W_OK):
            raise PipelineError(f"cannot write to {path.resolve()}: make it writable, or name another by --directory")


def number(round_: int) -> str:
    """A round as file names spell it, with three digits."""
    return f"{round_:03d}"


def before(round_: str) -> str:
    return number(int(round_) - 1)


def origins(runs: Mapping[str, Run], first: str) -> dict[str, str]:
    """Maps each run to the one whose data and base model it uses: the first of those with equal settings, `first` being
    before all others. The Snakefile passes the default run, so that the directory that DVC versions is complete."""
    makers: dict[str, str] = {}
    for name in (first, *runs):
        makers.setdefault(settings_json(runs[name], "base"), name)
    return {name: makers[settings_json(run, "base")] for name, run in runs.items()}


def prompt_limits(origin: str, runs: Mapping[str, Run], origins: Mapping[str, str]) -> str:
    """For rule `base`, what follows a prompt in the runs that share this base: {"train" or "held_out": [[prefill, most
    answer tokens], …]}, as JSON."""
    sharing = [run for name, run in runs.items() if origins[name] == origin]
    own = int(resolve_task(runs[origin].task).answer_length)
    train, held_out = {"": own}, {"": own}
    for run in sharing:
        length = run.rollout.length or own if run.rounds else 0
        train[run.rollout.prefill] = max(length, train.get(run.rollout.prefill, 0))
        length = max(run.evaluate.lengths or (own,))
        held_out[run.evaluate.prefill] = max(length, held_out.get(run.evaluate.prefill, 0))
    return json.dumps({"train": sorted(train.items()), "held_out": sorted(held_out.items())})


def policy(run: str, round_: str, origins: Mapping[str, str]) -> str:
    """The policy after a round; round 0, the base, lies in the directory of the run's origin."""
    return f"{ROUND}/policy".format(run=run if int(round_) else origins[run], round=round_)


def shards(kind: str, run: Run, wildcards: Any) -> list[str]:
    """The files of a round in its folder `rollouts`, `references` or `answers`. A single shard of answers has no file:
    rule `evaluate` then decodes by itself."""
    count = run.rollout.shards
    if kind == "answers":
        count = run.evaluate.shards if run.evaluate.shards > 1 else 0
    return [f"{ROUND}/{kind}/{shard:02d}.parquet".format(**wildcards) for shard in range(count)]


def enumerated(run: Run) -> bool:
    """Whether the task's answers are few enough to enumerate their distribution."""
    return resolve_task(run.task).enumerated is not None


def report_inputs(run: Run, name: str, origins: Mapping[str, str]) -> list[str]:
    """The files that a run's report reads."""
    rounds = [number(k) for k in range(run.rounds + 1)]
    files = [f"{ROUND}/train.json".format(run=name if int(k) else origins[name], round=k) for k in rounds]
    files += [f"{ROUND}/adjoint.json".format(run=name, round=k) for k in rounds[1:]]
    files += [f"data/runs/{name}/joint.parquet"] if enumerated(run) else []
    evaluated = map(number, run.evaluate.rounds(run.rounds))
    return files + [f"{ROUND}/evaluation.json".format(run=name, round=k) for k in evaluated]


def suite_inputs(names: Sequence[str], runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """The files that a suite's report reads: metrics; for enumerated tasks also distributions, and estimators once."""
    known = [name for name in names if enumerated(runs[name])]
    trained: dict[str, str] = {}
    for name in known:
        if runs[name].rounds:
            trained.setdefault(runs[name].task.name, name)
    return {
        "metrics": [f"data/runs/{name}/metrics.json" for name in names],
        "joints": [f"data/runs/{name}/joint.parquet" for name in known],
        "estimators": [f"data/runs/{name}/estimators.json" for name in trained.values()],
    }


def results(runs: Iterable[str], *, since: float) -> str:
    """What the report jobs of these runs have logged since the time `since`."""
    logs = {run: Path("data/runs", run, "logs/report.log") for run in runs}
    new = {run: log for run, log in logs.items() if log.exists() and log.stat().st_mtime > since}
    return "".join(f"\n{run}\n{log_text(log)}" for run, log in new.items()).rstrip()


def log_text(log: Path) -> str:
    """A user's reward may write any bytes to the log."""
    return log.read_text(encoding="utf-8", errors="replace")


def timings(run: str) -> list[Path]:
    """The timings of a run's finished jobs."""
    return list(Path("data/runs", run, "timings").glob("*.json"))


def threads(wanted: int, cores: int | None, devices: int) -> int:
    """The threads of a job with one device: few enough that all devices find cores."""
    return min(wanted, max(1, (cores or wanted) // devices)) if devices else wanted


def launch(python: str, socket: str = "", *, ranks: int = 0, devices: int = 0) -> str:
    """The command that starts a stage's module once it holds `devices` devices: forked from the server at `socket`, or
    launched as `ranks` processes (0: one, outside torch.distributed)."""
    start = f"{NEEDED}={devices} {shlex.quote(python)}" if devices else shlex.quote(python)
    if socket:
        return f"{start} -m pipeline.runtime.fork_server run {shlex.quote(socket)} {ranks}"
    return f"{start} -m pipeline.runtime.launch {ranks}"
