"""The runs that suites add: further seeds of a run, and one run for each combination of swept values. Torch-free."""

import itertools
import math
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.plugins import nearest
from pipeline.settings.inheritance import Notes, merge, unknown_run
from pipeline.settings.project import Scalar, Suite
from pipeline.settings.run import Run

MAX_RUNS, MAX_TOTAL = 2000, 10_000
"""The most runs of one suite, and of all that add some: Snakemake needs a rule for each."""
MAX_DOTS = 3
"""The most dots in a swept key; train.adapter.rank has two."""


def labels(suite: Suite, seeds: Mapping[str, int]) -> Iterator[tuple[str, str, dict[str, Scalar]]]:
    """(name, the run that it starts from, dotted key -> value) of each run of a suite; `seeds` are the runs' own."""
    for run, varied in suite.varied.items():
        for values in itertools.product(*varied.values()):
            settings = dict(zip(varied, values, strict=True))
            label = run + "".join(f"-{key.split('.')[-1]}{value}" for key, value in settings.items())
            for seed in suite.seeds or [seeds[run]]:
                yield (label if seed == seeds[run] else f"{label}-seed{seed}"), run, {**settings, "seed": seed}


def runs_of_suites(
    suites: Mapping[str, object], runs: Mapping[str, object], notes: dict[str, Notes]
) -> dict[str, object]:
    """The runs that suites add, not validated yet; the schema reports what is wrong with a suite in itself.

    Raises:
        PipelineError: for a run that does not exist, a sweep that is too large or cannot be made, or a name that would
            stand for two runs.
    """
    added: dict[str, object] = {}
    for name, raw in suites.items():
        try:
            suite = Suite.model_validate(raw)
        except ValidationError:
            continue
        if unknown := [run for run in (*suite.varied, *suite.published) if run not in runs]:
            raise PipelineError(f"suites.{name} names {unknown_run(unknown[0], runs)}")
        for key in (key for varied in suite.varied.values() for key in varied):
            if problem := _unsweepable(key):
                raise PipelineError(f"suites.{name}: {problem}")
        count = sum(math.prod(map(len, varied.values())) for varied in suite.varied.values()) * len(suite.seeds or "1")
        if count > MAX_RUNS:
            number = f"{count:,}" if count < 10**12 else "more than 10^12"
            raise PipelineError(f"suites.{name} asks for {number} runs, at most {MAX_RUNS:,} are possible")
        if len(added) + count > MAX_TOTAL:
            raise PipelineError(f"suites.{name}: the suites ask for more than {MAX_TOTAL:,} runs")
        for label, run, settings in labels(suite, {run: seed_of(runs[run]) for run in suite.varied}):
            own = list(notes.get(run, []))
            made = _with(runs[run], settings, own)
            if ignored := [key for key, value in settings.items() if _at(made, key) != value]:
                raise PipelineError(f"suites.{name}: '{ignored[0]}' has no effect in the run '{label}'")
            if label != run and made != added.get(label, runs.get(label, made)):
                raise PipelineError(f"suites.{name} makes a run '{label}', but there is another one of that name")
            added[label], notes[label] = made, own
    return added


def _unsweepable(key: str) -> str:
    """Why a key cannot be swept, whatever the run."""
    section = key.partition(".")[0]
    if section == "seed":
        return f"'{key}' cannot be swept: give `seeds: [0, 1, …]` beside `runs`, for all runs of the suite"
    if section not in Run.model_fields or key.count(".") > MAX_DOTS:
        return f"unknown key '{key}': {nearest(section, list(Run.model_fields))}"
    return ""


def check_sweep(name: str, suite: Suite, runs: Mapping[str, Run]) -> None:
    """PipelineError for a swept key that no stage of the run reads."""
    for run, varied in suite.varied.items():
        for key in varied:
            if reason := _unread(runs[run], key):
                raise PipelineError(f"suites.{name}: '{key}' has no effect in the run '{run}': {reason}")


def _unread(run: Run, key: str) -> str:
    section, _, field = key.partition(".")
    if section in ("rollout", "train") and run.rounds == 0:
        return "its rounds are 0"
    if section == "base" and field not in ("path", "exact") and not run.base.trains:
        return "its base is not trained (base.path, base.exact)"
    if section == "model" and field not in ("name", "dtype", "block_length") and run.base.path:
        return "base.path names a model of its own"
    return ""


def seed_of(run: object) -> int:
    """The seed of a run that is not validated yet."""
    return run.get("seed", 0) if isinstance(run, dict) else 0


def _with(run: object, settings: Mapping[str, Scalar], notes: Notes) -> object:
    """The run with these settings, by dotted key. A plug-in's name comes first, since its other keys depend on it."""
    for key, value in sorted(settings.items(), key=lambda setting: not setting[0].endswith(".name")):
        nested: object = value
        for part in reversed(key.split(".")):
            nested = {part: nested}  # {"a": {"b": value}} for the key a.b
        run = merge(run, nested, notes)
    return run


def _at(run: object, key: str) -> object:
    """The value at a dotted key; None if there is none."""
    for part in key.split("."):
        run = run.get(part) if isinstance(run, dict) else None
    return run
