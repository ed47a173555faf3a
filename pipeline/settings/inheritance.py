"""A run on top of `defaults` or of the run that it extends, before anything is validated. Torch-free.

Sections are merged key by key. Where a run names another plug-in by `task.name` or `algorithm.name`, it takes over the
keys that this one has too, if it accepts their values; the others are left behind, and Snakemake says which.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from pipeline.errors import PipelineError
from pipeline.plugins import nearest
from pipeline.settings.run import algorithm_schema, task_schema

PLUGINS: Mapping[str, Callable[[str], type[BaseModel]]] = {"task": task_schema, "algorithm": algorithm_schema}
"""The sections whose keys depend on their `name`."""


MAX_ANCESTORS = 50
"""The most runs from one that extends another to `defaults`."""


class LeftBehind(NamedTuple):
    """Keys of a section that a run does not take over: the plug-in that it names has no such key, or `refuses` the
    value."""

    section: str
    name: str
    keys: tuple[str, ...]
    refuses: bool

    def __str__(self) -> str:
        keys = ", ".join(f"{self.section}.{key}" for key in self.keys)
        why = "refuses the value" if self.refuses else "has no such key"
        are = "are" if len(self.keys) > 1 else "is"
        return f"{keys} of defaults or of the extended run {are} left out: {self.section} '{self.name}' {why}"


Notes = list[LeftBehind]


def merge(defaults: object, changes: object, notes: Notes | None = None) -> object:
    """The sections of a run with those of `changes` on top; what is left behind is added to `notes`."""
    if not isinstance(defaults, dict) or not isinstance(changes, dict):
        return changes
    merged = dict(defaults)
    for key, change in changes.items():
        old = defaults.get(key)
        if key in PLUGINS and isinstance(old, dict) and isinstance(change, dict):
            merged[key] = _plugin(key, old, change, [] if notes is None else notes)
        else:
            merged[key] = _deep(old, change)
    return merged


def _deep(defaults: object, changes: object) -> object:
    """`defaults` with the keys of `changes` replaced, mapping by mapping."""
    if not isinstance(defaults, dict) or not isinstance(changes, dict):
        return changes
    return {**defaults, **{key: _deep(defaults.get(key), value) for key, value in changes.items()}}


def _plugin(section: str, old: dict[str, object], change: dict[str, object], notes: Notes) -> object:
    """The section with `change` on top. If that names another plug-in, what an extended run has left behind of this
    section says nothing any more, and its notes go."""
    name = change.get("name", old.get("name"))
    if name == old.get("name"):
        return _deep(old, change)
    try:
        schema = PLUGINS[section](name) if isinstance(name, str) else None
    except PipelineError:
        schema = None
    if schema is None:  # the schema reports the name
        return change
    notes[:] = [note for note in notes if note.section != section]
    rest = {key: value for key, value in old.items() if key != "name" and key not in change}
    kept = {key: value for key, value in rest.items() if _fits(schema, str(name), key, value)}
    for refuses in (False, True):
        if lost := tuple(key for key in rest if key not in kept and (key in schema.model_fields) == refuses):
            notes.append(LeftBehind(section, str(name), lost, refuses))
    return {**kept, **change}


def _fits(schema: type[BaseModel], name: str, key: str, value: object) -> bool:
    """Whether the plug-in has this key and accepts the value."""
    if key not in schema.model_fields:
        return False
    try:
        schema.model_validate({"name": name, key: value})
    except ValidationError as error:
        return all(problem["loc"][:1] != (key,) for problem in error.errors())
    return True


def filled_in(
    name: str, runs: Mapping[str, object], defaults: object, notes: Notes, seen: tuple[str, ...] = ()
) -> object:
    """What a run says, on top of the run that it extends or of the defaults.

    Raises:
        PipelineError: if it extends a run that does not exist, or itself, or over more than `MAX_ANCESTORS` others.
    """
    if len(seen) > MAX_ANCESTORS:
        raise PipelineError(f"runs.{seen[0]}.extends goes over more than {MAX_ANCESTORS} other runs")
    found = runs[name]
    changes = {} if found is None else dict(found) if isinstance(found, dict) else found
    parent = changes.pop("extends", None) if isinstance(changes, dict) else None
    if parent is None:
        return merge(defaults, changes, notes)
    if not isinstance(parent, str) or parent not in runs:
        raise PipelineError(f"runs.{name}.extends names {unknown_run(parent, runs)}")
    if parent in (*seen, name):
        raise PipelineError(f"runs.{name}.extends goes round in a circle: {' -> '.join((*seen, name, parent))}")
    return merge(filled_in(parent, runs, defaults, notes, (*seen, name)), changes, notes)


def ancestors(name: str, runs: Mapping[str, object]) -> list[str]:
    """A run, the run that it extends, the run that this one extends, and so on; for runs that `filled_in` has taken."""
    found = [name]
    while isinstance(run := runs.get(found[-1]), dict) and (parent := run.get("extends")):
        found.append(str(parent))
    return found


def nearest_target(name: str, known: Iterable[str]) -> str:
    """`nearest` among runs and suites, which a command lists."""
    return nearest(name, known, all_of_many="`python -m pipeline.workflow.targets` lists all")


def unknown_run(run: object, runs: Mapping[str, object]) -> str:
    return f"unknown run '{run}': {nearest(str(run), list(runs))}"
