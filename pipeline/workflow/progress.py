"""How far the jobs of a Snakemake are: a line for each round, and the time that is left. Torch-free.

Both come from the files that the stages write. A job is done once its timing is there that began after this Snakemake.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pipeline.errors import PipelineError
from pipeline.settings.params_file import Params
from pipeline.settings.sections import judged_by
from pipeline.storage.atomic_files import read_json
from pipeline.storage.provenance import origin_in
from pipeline.workflow.estimate import Estimate, shape_of

LEGEND = (
    "reward: mean over the round's rollouts, round before → this one; ESS: how many of a prompt's completions count;"
    " KL: from the base, in nats\nwhat is done so far as a report: python -m pipeline.report.so_far NAME"
)
"""What the columns of `round_line` mean, and where to see more."""
STEP = {"tau": "τ", "inverse_alpha_total": "1/α"}
"""Keys of adjoint.json that say how far towards the optimum a round aims, with their symbols."""
FLAT = "nothing to learn: the rewards of each prompt's completions are equal"
"""What is said of a round without any signal."""


class Job(NamedTuple):
    """A job of a run, or of a suite, that has a timing; `round` is 0 for those of no round."""

    run: str
    rule: str
    round: int = 0


class Progress:
    """The jobs of this Snakemake.

    Attributes:
        pending: the timing that each unfinished job will write -> the job.
    """

    def __init__(self, params: Params, jobs: Mapping[Path, Job], started: float):
        self.params, self.pending, self.started = params, dict(jobs), started
        self.busy: list[tuple[float, float]] = []
        self.done: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.earlier: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run in {job.run for job in jobs.values()}:
            for path in set(Path("data/runs", run, "timings").glob("*.json")):
                if timing := _timing(path):
                    self.earlier[run, origin_in(timing).get("stage", "")].append(_seconds(timing))

    def finished(self) -> list[Job]:
        """The jobs that have finished since the last call, in order."""
        found: list[tuple[float, Job]] = []
        for path, job in list(self.pending.items()):
            if modified(path) > self.started and (timing := _timing(path)):
                del self.pending[path]
                self.busy.append((timing["started"], timing["finished"]))
                self.done[job.run, job.rule].append(_seconds(timing))
                found.append((timing["finished"], job))
        return [job for _, job in sorted(found)]

    def seconds_left(self, now: float) -> float | None:
        """The work of all pending jobs over the number of jobs that ran side by side in the later half of the time so
        far; None before anything has finished."""
        begin = now - (now - self.started) / 2
        side_by_side = sum(max(0.0, end - max(begin, start)) for start, end in self.busy) / max(1e-9, now - begin)
        if not self.busy:
            return None
        return sum(map(self._expected, self.pending.values())) / max(0.5, side_by_side)

    def _expected(self, job: Job) -> float:
        """Seconds: the mean of such jobs of this run, now or else in an earlier Snakemake; else its operations at the
        speed of the jobs so far; else the mean of such jobs of other runs."""
        for known in (self.done, self.earlier):
            if seconds := known.get((job.run, job.rule)):
                return fmean(seconds)
        if operations := self._operations(job.run, job.rule):
            with_both = [
                (s, n) for (run, rule), all_ in self.done.items() if (n := self._operations(run, rule)) for s in all_
            ]
            if with_both:
                return operations * sum(s for s, _ in with_both) / sum(n for _, n in with_both)
        others = [second for (_, rule), seconds in self.done.items() if rule == job.rule for second in seconds]
        return fmean(others) if others else 0.0

    @cache  # noqa: B019  (there is one object in a process)
    def _operations(self, name: str, rule: str) -> float:
        """The estimated operations of one job; 0 if there is no estimate."""
        run = self.params.runs.get(name)
        if run is None or not (shape := shape_of(run)):
            return 0.0
        cost = Estimate(run, self.params.hardware.of(name, run.model.name), shape).stages().get(rule)
        return cost.flops if cost else 0.0

    def round_line(self, job: Job) -> str:
        """A finished round in one line.

        Raises:
            PipelineError: if a file of the round is gone.
        """
        run, folder = self.params.runs[job.run], Path("data/runs", job.run)
        now = read_json(folder / f"round_{job.round:03d}" / "adjoint.json", "reward_mean", "kl_to_base")
        reward = short(now["reward_mean"])
        if job.round > 1:
            before = read_json(folder / f"round_{job.round - 1:03d}" / "adjoint.json", "reward_mean")["reward_mean"]
            reward = f"{short(before)} → {reward}"
        parts = [f"round {job.round:>{len(str(run.rounds))}}/{run.rounds}", f"reward {reward:<13}"]
        parts += [f"{symbol} {now[key]:#.2g}".rstrip(".") for key, symbol in STEP.items() if key in now]
        parts += [f"ESS {now['ess_mean']:.1f}/{run.rollout.completions}"] if "ess_mean" in now else []
        parts += [f"KL {short(now['kl_to_base'])}", *self._evaluated(folder, job.round)]
        parts += [FLAT] if now.get("flat_groups") == 1 else []
        return "  ".join(parts)

    def _evaluated(self, folder: Path, last: int) -> list[str]:
        """The headline metric of the last evaluation so far: of the test split."""
        for number in range(last, -1, -1):
            path = folder / f"round_{number:03d}" / "evaluation.json"
            if path.exists() and folder / "timings" / f"evaluate_{number:03d}.json" not in self.pending:
                found = read_json(path, "splits", "exact", "headline")
                values = found["splits"]["test"][judged_by(found["splits"]["test"])] | found["exact"]
                name = found["headline"]
                value = f"{values[name]:.0%}".replace("%", " %") if name.endswith("accuracy") else short(values[name])
                when = "" if number == last else f" (round {number})" if number else " (base)"
                return [f"{name.replace('_', ' ')} {value}{when}"]
        return []


def short(value: float) -> str:
    """Three digits."""
    return f"{value:#.3g}".rstrip(".")


def duration(seconds: float) -> str:
    """Rounded to what matters: "40 s", "6 min", "2 h 10 min"."""
    minutes = round(seconds / 60)
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {10 * (minutes % 60 // 10):02d} min"


def modified(path: Path) -> float:
    """When a file was last written; 0 if it is not there. Snakemake removes the outputs of a job before it runs."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _timing(path: Path) -> dict[str, Any]:
    """The content of a timing; {} if the file is gone, or no timing."""
    try:
        found: dict[str, Any] = read_json(path, "started", "finished")
    except PipelineError:
        return {}
    return found if all(isinstance(found[key], int | float) for key in ("started", "finished")) else {}


def _seconds(timing: Mapping[str, float]) -> float:
    return timing["finished"] - timing["started"]
