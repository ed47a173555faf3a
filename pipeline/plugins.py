"""Loads plug-ins by name: `task: sudoku` is `pipeline/tasks/sudoku.py`, `task: mine.task` any importable module."""

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pipeline import algorithms, models, tasks
from pipeline.errors import PipelineError, users_code

if TYPE_CHECKING:  # the Snakefile imports this module, and must not import PyTorch
    from pipeline.algorithms.base import Algorithm
    from pipeline.models.base import Model
    from pipeline.settings.method import Settings
    from pipeline.settings.validation import PluginSection
    from pipeline.tasks.base import Task

KINDS = {"task": tasks, "model": models, "algorithm": algorithms}
FEW, MANY = 4, 30
"""An error message lists FEW of more than MANY known words."""
SHOWN = 200
"""Characters of a word that are compared."""


def nearest(word: str, known: Iterable[object], *, all_of_many: str = "") -> str:
    """The end of an error message: the closest known word, and all of them or, if they are many, where they are listed
    or else a few close ones."""
    words = sorted(map(str, known))
    close = difflib.get_close_matches(word[:SHOWN], words, n=FEW, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    if len(words) <= MANY:
        return f"{hint}known: {', '.join(words)}"
    few = f"known: {', '.join(close or words[:FEW])} and {len(words) - len(close or words[:FEW])} more"
    return hint + (all_of_many or few)


def check(kind: str, name: str) -> None:
    """Raise `PipelineError` unless `name` is one of the kind's NAMES or looks like an import path; imports nothing."""
    if "/" in name or name.endswith(".py"):
        dotted = name.removesuffix(".py").strip("/").replace("/", ".")
        raise PipelineError(f"{kind} '{name}' must be an import path, not a file: write {dotted}")
    if name not in KINDS[kind].NAMES and "." not in name:
        raise PipelineError(
            f"unknown {kind} '{name}': {nearest(name, KINDS[kind].NAMES)}, or the import path of your own module"
        )


def load_algorithm(name: str) -> "Algorithm[Settings]":
    """The PLUGIN of an algorithm; importing it imports PyTorch."""
    found: Algorithm[Settings] = _load("algorithm", name)
    return found


def load_model(name: str) -> "Model":
    """The PLUGIN of a model; importing it imports PyTorch."""
    found: Model = _load("model", name)
    return found


def load_task(name: str) -> "Task[PluginSection]":
    """The PLUGIN of a task before its settings are applied, e.g. for their schema; see `resolve_task`."""
    found: Task[PluginSection] = _load("task", name)
    return found


def resolve_task(settings: "PluginSection") -> "Task[PluginSection]":
    """The task that a section of params.yaml names, with its settings applied.

    A user's module may replace fields of another task's PLUGIN; these replacements are kept. `whole_text` goes with
    `score`: a user's own function gets answers up to their end, whatever `profile` says, unless it asks for more.
    """
    task = load_task(settings.name)
    if not task.resolve:
        return task
    with users_code(f"task '{settings.name}': resolve", PipelineError, log=False):
        original: Task[PluginSection] = importlib.import_module(task.resolve.__module__).PLUGIN
        names = (field.name for field in dataclasses.fields(task))
        own = {name: getattr(task, name) for name in names if getattr(task, name) is not getattr(original, name)}
        if "score" in own:
            own["whole_text"] = task.whole_text
        return dataclasses.replace(task.resolve(settings), **own)


def source(kind: str, name: str) -> Path:
    """The file of a plug-in, found without importing it; only the packages around it are imported.

    Raises:
        PipelineError: if there is no such module.
    """
    try:
        spec = importlib.util.find_spec(_path(kind, name))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's package raises
        raise PipelineError(f"cannot find {kind} '{name}': {type(error).__name__}: {error}") from error
    if spec is None or spec.origin is None:
        raise PipelineError(f"cannot find {kind} '{name}'{_hint(name)}")
    return Path(spec.origin)


def _load(kind: str, name: str):  # type: ignore[no-untyped-def]  # the load_ functions declare the type
    """The PLUGIN of `pipeline/<kind>s/<name>.py`, or of the module at an import path."""
    check(kind, name)
    try:
        found = importlib.import_module(_path(kind, name))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's module raises
        hint = _hint(name) if isinstance(error, ModuleNotFoundError) and error.name == name else ""
        raise PipelineError(f"cannot import {kind} '{name}': {type(error).__name__}: {error}{hint}") from error
    if not hasattr(found, "PLUGIN"):
        raise PipelineError(f"module '{found.__name__}' ({found.__file__}) does not define PLUGIN")
    wanted = getattr(importlib.import_module(f"{KINDS[kind].__name__}.base"), kind.capitalize())
    if not isinstance(found.PLUGIN, wanted):
        what = f"is of the type {type(found.PLUGIN).__name__}, not {wanted.__module__}.{wanted.__name__}"
        raise PipelineError(f"PLUGIN of module '{found.__name__}' ({found.__file__}) {what}")
    _check_own_functions(found)
    return found.PLUGIN


def _check_own_functions(module: ModuleType) -> None:
    """PipelineError if a module defines, say, `score`, but its PLUGIN is the one that it imports from elsewhere.

    Plug-ins are loaded a thousand times while params.yaml is read, so the source is only read where it may be so.
    """
    functions = {name: made for name, made in vars(module).items() if inspect.isfunction(made)}
    fields = [field.name for field in dataclasses.fields(module.PLUGIN)]
    unused = [name for name in fields if name in functions and getattr(module.PLUGIN, name) is not functions[name]]
    own = [name for name in unused if functions[name].__module__ == module.__name__]
    if own and (origin := _origin_of_plugin(module)):
        advice = f"end it in PLUGIN = replace(PLUGIN, {', '.join(f'{name}={name}' for name in own)})"
        said = f"defines {' and '.join(own)}, but its PLUGIN is that of {origin}, unchanged"
        raise PipelineError(f"module '{module.__name__}' ({module.__file__}) {said}: {advice}")


def _origin_of_plugin(module: ModuleType) -> str | None:
    """The module that PLUGIN is imported from; None if it is assigned, or the source is not at hand."""
    origin, source = None, ""
    with suppress(OSError):
        source = inspect.getsource(module)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and "PLUGIN" in [name.asname or name.name for name in node.names]:
            origin = node.module
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if "PLUGIN" in [target.id for target in targets if isinstance(target, ast.Name)]:
                origin = None
    return origin


def _hint(name: str) -> str:
    """The end of an error message: the nearest modules in the package that should hold the module `name`."""
    package = name.rpartition(".")[0]
    places = importlib.util.find_spec(package).submodule_search_locations or ()  # type: ignore[union-attr]
    beside = [f"{package}.{found.name}" for found in pkgutil.iter_modules(places)]
    return f": {nearest(name, beside)}" if beside else ""


def _path(kind: str, name: str) -> str:
    return name if "." in name else f"{KINDS[kind].__name__}.{name}"
