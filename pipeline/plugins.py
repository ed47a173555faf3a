"""Plug-ins by name: `task: sudoku` is `pipeline/tasks/sudoku.py`, `task: mine.task` any importable module."""

import dataclasses
import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import algorithms, models, tasks
from pipeline.errors import PipelineError

KINDS = {"task": tasks, "model": models, "algorithm": algorithms}


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """The end of an error message: the closest known word, and all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(sorted(known))}"


def check(kind: str, name: str) -> None:
    """Raise `PipelineError` unless `name` is one of the kind's NAMES or looks like an import path; imports nothing."""
    if name not in KINDS[kind].NAMES and "." not in name:
        raise PipelineError(
            f"unknown {kind} '{name}': {nearest(name, KINDS[kind].NAMES)}, or the import path of your own module"
        )


def load(kind: str, name: str) -> Any:
    """The PLUGIN of `pipeline/<kind>s/<name>.py`, or of the module at an import path."""
    check(kind, name)
    try:
        found = importlib.import_module(_path(kind, name))
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        raise PipelineError(f"cannot import {kind} '{name}': {type(error).__name__}: {error}") from error
    if not hasattr(found, "PLUGIN"):
        raise PipelineError(f"module '{found.__name__}' ({found.__file__}) does not define PLUGIN")
    return found.PLUGIN


def load_task(section: Mapping[str, Any]) -> Any:
    """The task of a validated section `task`, with all that its settings decide.

    What a module of one's own has replaced in another's PLUGIN stays replaced, whatever the settings.
    """
    settings = {key: value for key, value in section.items() if key != "name"}
    task = load("task", section["name"])
    if not task.resolve:
        return task
    original, resolved = (
        importlib.import_module(task.resolve.__module__).PLUGIN,
        task.resolve(task.settings(**settings)),
    )
    names = (field.name for field in dataclasses.fields(task))
    own = {name: getattr(task, name) for name in names if getattr(task, name) is not getattr(original, name)}
    return dataclasses.replace(resolved, **own)


def source(kind: str, name: str) -> Path:
    """The file of a plug-in, which is not imported."""
    spec = importlib.util.find_spec(_path(kind, name))
    if spec is None or spec.origin is None:
        raise PipelineError(f"cannot find {kind} '{name}'")
    return Path(spec.origin)


def _path(kind: str, name: str) -> str:
    return name if "." in name else f"{KINDS[kind].__name__}.{name}"
