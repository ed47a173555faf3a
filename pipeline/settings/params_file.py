"""Reading params.yaml: every run with its defaults filled in, validated; suites spelt out. Torch-free."""

import fnmatch
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import Field, PrivateAttr, ValidationError

from pipeline.errors import PipelineError
from pipeline.settings.inheritance import Notes, ancestors, filled_in, unknown_run
from pipeline.settings.project import Hardware, Keep, Suite
from pipeline.settings.run import Run
from pipeline.settings.stages import STAGES
from pipeline.settings.sweeps import check_sweep, labels, runs_of_suites
from pipeline.settings.validation import Section, describe
from pipeline.settings.yaml_file import read_yaml

RESERVED = {*STAGES, "all", "compare"}
"""The names of rules, which no target may have."""
MAX_NAME = 120
"""Characters of a run's name, which is that of a directory."""


class Params(Section):
    """params.yaml: `defaults`, what each run changes, suites of runs, what stays on disk, and the hardware.

    `describe` says what runs and suites are for, by name or by a pattern such as `table-*`; it changes nothing else.
    `left_behind` are, by run, the keys that it does not take over from `defaults` or the run that it extends; `named`
    are the runs of the file, without those that only a suite makes.
    """

    default_run: str
    defaults: Run = Run()
    runs: dict[str, Run]
    suites: dict[str, Suite] = Field(default={})
    describe: dict[str, str] = Field(default={})
    keep: Keep = Keep()
    hardware: Hardware = Hardware()
    _left_behind: dict[str, Notes] = PrivateAttr(default={})
    _named: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def left_behind(self) -> dict[str, Notes]:
        return self._left_behind

    @property
    def named(self) -> frozenset[str]:
        return self._named

    def on(self, devices: int) -> "Params":
        """The same parameters with the number of devices that this machine has for them."""
        return self.model_copy(update={"hardware": self.hardware.model_copy(update={"devices": devices})})


def read_params(path: str | Path) -> Params:
    """The validated params.yaml; see `parse_params`."""
    return parse_params(read_yaml(Path(path)), str(path))


def parse_params(raw: object, source: str = "params.yaml") -> Params:
    """Fill in and validate every run, and add those that a suite asks for with other seeds or settings.

    A run changes `defaults`, or the run that its key `extends` names. A PipelineError names the key and, for a misspelt
    one, the nearest valid key.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("runs"), dict):
        raise PipelineError(f"{source}: needs the key 'runs', a mapping from run names to what they change")
    try:
        defaults = raw.get("defaults") or {}
        notes: dict[str, Notes] = {name: [] for name in raw["runs"]}
        runs = {name: filled_in(name, raw["runs"], defaults, notes[name]) for name in raw["runs"]}
        if isinstance(suites := raw.get("suites"), dict):
            runs |= runs_of_suites(suites, runs, notes)
        # Runs that others extend are validated before those: an error names the run that makes it.
        parents_first = sorted(runs, key=lambda name: (name not in raw["runs"], len(ancestors(name, raw["runs"]))))
        filled = {**raw, "defaults": defaults, "runs": {name: runs[name] for name in parents_first}}
        params = Params.model_validate(filled, context={"whole": True})
        params._left_behind, params._named = notes, frozenset(raw["runs"])
        for name, suite in params.suites.items():
            check_sweep(name, suite, params.runs)
    except ValidationError as error:
        raise PipelineError(f"{source}: {describe(error, Params)}") from error
    except PipelineError as error:
        raise PipelineError(f"{source}: {error}") from error
    if params.default_run not in runs:
        raise PipelineError(f"{source}: default_run names {unknown_run(params.default_run, runs)}")
    if unused := [pattern for pattern in params.hardware.runs if not fnmatch.filter(runs, pattern)]:
        raise PipelineError(f"{source}: hardware.runs: '{unused[0]}' is the name of no run")
    if unused := [pattern for pattern in params.describe if not fnmatch.filter([*runs, *params.suites], pattern)]:
        raise PipelineError(f"{source}: describe: '{unused[0]}' is the name of no run and of no suite")
    for kind, names in (("runs", params.runs), ("suites", params.suites)):
        for name in names:
            if problem := _unusable(name, () if kind == "runs" else params.runs):
                raise PipelineError(f"{source}: {kind}.{name}: {problem}; choose another name")
    in_order = {name: params.runs[name] for name in runs}
    hardware = _inherited_processes(params.hardware, raw["runs"], runs)
    return params.model_copy(update={"runs": in_order, "hardware": hardware})


def _inherited_processes(hardware: Hardware, said: Mapping[str, object], runs: Collection[str]) -> Hardware:
    """The hardware with `runs` by name: what a pattern gives the run itself, else the run that it extends, and on."""
    found: dict[str, int] = {}
    for run in runs:
        origin = run if run in said else max(filter(run.startswith, said), key=len, default=run)
        counts = map(hardware.named, (run, *ancestors(origin, said)))
        if count := next(filter(None, counts), None):
            found[run] = count
    return hardware.model_copy(update={"runs": found})


def _unusable(name: str, taken: Collection[str]) -> str:
    """Why nothing can have this name, which is that of a directory and of a target."""
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        return "a name is made of letters, digits, '_', '-' and '.'"
    if len(name) > MAX_NAME:
        return f"a name has at most {MAX_NAME} characters"
    return "is the name of a rule" if name in RESERVED else "is the name of a run too" if name in taken else ""


def runs_of_suite(params: Params, suite: Suite) -> list[str]:
    """The names of a suite's runs."""
    return [label for label, _, _ in labels(suite, {name: run.seed for name, run in params.runs.items()})]
