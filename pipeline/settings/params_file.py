"""Reading params.yaml: every run with its defaults filled in, validated; suites spelt out. Torch-free."""

import fnmatch
import functools
import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from pipeline.errors import PipelineError
from pipeline.plugins import nearest
from pipeline.settings.run import Run
from pipeline.settings.sections import Hardware, Keep, Scalar, Suite
from pipeline.settings.stages import STAGES
from pipeline.settings.validation import Section, describe

RESERVED = {*STAGES, "all", "compare"}
"""The names of rules, which no target may have."""


class Params(Section):
    """params.yaml: `defaults`, what each run changes, suites of runs, what stays on disk, and the hardware."""

    default_run: str
    defaults: Run = Run()
    runs: dict[str, Run]
    suites: dict[str, Suite] = Field(default={})
    keep: Keep = Keep()
    hardware: Hardware = Hardware()


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is a mistake, not the second value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        for number, (key, _) in enumerate(node.value):
            if any(key.value == other.value for other, _ in node.value[:number]):
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' twice", key.start_mark)
        return super().construct_mapping(node, deep)


def read_params(path: str | Path) -> Params:
    """The validated params.yaml; see `parse_params`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return parse_params(yaml.load(text, UniqueKeys), str(path))
    except OSError as error:
        raise PipelineError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def parse_params(raw: object, source: str = "params.yaml") -> Params:
    """Fill in and validate every run, and add those that a suite asks for with other seeds or settings.

    A run changes `defaults`, or the run that its key `extends` names. A PipelineError names the key and, for a misspelt
    one, the nearest valid key.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("runs"), dict):
        raise PipelineError(f"{source}: needs the key 'runs', a mapping from run names to what they change")
    try:
        defaults = raw.get("defaults") or {}
        runs = {name: _filled_in(name, raw["runs"], defaults, ()) for name in raw["runs"]}
        if isinstance(suites := raw.get("suites"), dict):
            runs |= _of_suites(suites, runs)
        params = Params.model_validate({**raw, "defaults": defaults, "runs": runs}, context={"whole": True})
    except ValidationError as error:
        raise PipelineError(f"{source}: {describe(error, Params)}") from error
    except PipelineError as error:
        raise PipelineError(f"{source}: {error}") from error
    if params.default_run not in runs:
        raise PipelineError(f"{source}: default_run names {_unknown(params.default_run, runs)}")
    if unused := [pattern for pattern in params.hardware.runs if not fnmatch.filter(runs, pattern)]:
        raise PipelineError(f"{source}: hardware.runs: '{unused[0]}' is the name of no run")
    for kind, names in (("runs", params.runs), ("suites", params.suites)):
        for name in names:
            if problem := _unusable(name, () if kind == "runs" else params.runs):
                raise PipelineError(f"{source}: {kind}.{name}: {problem}; choose another name")
    return params


def _unusable(name: str, taken: Collection[str]) -> str:
    """Why nothing can have this name, which is that of a directory and of a target."""
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        return "a name is made of letters, digits, '_', '-' and '.'"
    return "is the name of a rule" if name in RESERVED else "is the name of a run too" if name in taken else ""


def runs_of_suite(params: Params, suite: Suite) -> list[str]:
    """The names of a suite's runs."""
    return [label for label, _, _ in _labels(suite, {name: run.seed for name, run in params.runs.items()})]


def merge(defaults: object, changes: object) -> object:
    """`defaults` with the keys of `changes` replaced, section by section; a plug-in of another name starts afresh."""
    if not isinstance(defaults, dict) or not isinstance(changes, dict):
        return changes
    if "name" in changes and changes["name"] != defaults.get("name"):
        return changes
    return {**defaults, **{key: merge(defaults.get(key), value) for key, value in changes.items()}}


def _filled_in(name: str, runs: dict[str, object], defaults: object, seen: tuple[str, ...]) -> object:
    """What a run says, on top of the run that it extends or of the defaults."""
    found = runs[name]
    changes = {} if found is None else dict(found) if isinstance(found, dict) else found
    parent = changes.pop("extends", None) if isinstance(changes, dict) else None
    if parent is None:
        return merge(defaults, changes)
    if not isinstance(parent, str) or parent not in runs:
        raise PipelineError(f"runs.{name}.extends names {_unknown(parent, runs)}")
    if parent in (*seen, name):
        raise PipelineError(f"runs.{name}.extends goes round in a circle: {' -> '.join((*seen, name, parent))}")
    return merge(_filled_in(parent, runs, defaults, (*seen, name)), changes)


def _labels(suite: Suite, seeds: Mapping[str, int]) -> Iterator[tuple[str, str, dict[str, Scalar]]]:
    """(name, the run that it starts from, dotted key -> value) of each run of a suite; `seeds` are the runs' own."""
    for run, varied in suite.varied.items():
        for values in itertools.product(*varied.values()):
            settings = dict(zip(varied, values, strict=True))
            label = run + "".join(f"-{key.split('.')[-1]}{value}" for key, value in settings.items())
            for seed in suite.seeds or [seeds[run]]:
                yield (label if seed == seeds[run] else f"{label}-seed{seed}"), run, {**settings, "seed": seed}


def _of_suites(suites: Mapping[str, object], runs: Mapping[str, object]) -> dict[str, object]:
    """The runs that suites add. PipelineError if a name would stand for two runs; the schema reports other errors."""
    added: dict[str, object] = {}
    for name, raw in suites.items():
        try:
            suite = Suite.model_validate(raw)
        except ValidationError:
            continue
        if unknown := [run for run in (*suite.varied, *suite.published) if run not in runs]:
            raise PipelineError(f"suites.{name} names {_unknown(unknown[0], runs)}")
        for label, run, settings in _labels(suite, {run: _seed(runs[run]) for run in suite.varied}):
            made = functools.reduce(merge, itertools.starmap(_nested, settings.items()), runs[run])
            if label != run and made != added.get(label, runs.get(label, made)):
                raise PipelineError(f"suites.{name} makes a run '{label}', but there is another one of that name")
            added[label] = made
    return added


def _seed(run: object) -> int:
    """Of a run that is not validated yet."""
    return run.get("seed", 0) if isinstance(run, dict) else 0


def _nested(key: str, value: object) -> object:
    """{"a": {"b": value}} for the key a.b"""
    return functools.reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), value)


def _unknown(run: object, runs: Mapping[str, object]) -> str:
    return f"unknown run '{run}': {nearest(str(run), list(runs))}"
