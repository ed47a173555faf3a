"""Digests of the code that each stage runs: editing a module reruns the stages that use it, and no others."""

import ast
import hashlib
import re
from collections import deque
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pipeline
from pipeline.plugins import source
from pipeline.settings.run import Run
from pipeline.settings.stages import STAGES
from pipeline.storage.atomic_files import sha256_of

NOT_FOLLOWED = ("settings", "training/throughput.py")
"""Imported code that does not count: schemas, whose values are in the stage's settings (an edit of what they derive
from these values reruns nothing), and measurements of speed."""
FILE_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,100}")


def code_digest(stage: str, run: Run | None = None) -> str:
    """A digest of the modules that a stage runs: its own file, the run's plug-ins, and what these import from this
    package or, in the case of a user's plug-in, from the user's package; and of the files that these read, see
    `_files_beside`.

    Of a module it is the syntax tree without docstrings that counts: comments and formatting do not change it.
    """
    names = {} if run is None else {"task": run.task.name, "model": run.model.name, "algorithm": run.algorithm.name}
    return _digest(stage, tuple((kind, names[kind]) for kind in names if kind in STAGES[stage].model_fields))


@cache
def _digest(stage: str, plugins: tuple[tuple[str, str], ...]) -> str:
    here = Path(pipeline.__file__).parent
    entry = {here / "stages" / f"{stage}.py"} | {source(kind, name) for kind, name in plugins}
    own = {_package(kind, name) for kind, name in plugins if "." in name}
    closure = _closure(entry, here, (here, *sorted(own)))
    parts = sorted(path.name + _read(path).tree for path in closure)
    parts += sorted(file.name + sha256_of(file) for path in closure for file in _files_beside(path, here))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _package(kind: str, name: str) -> Path:
    """The directory of the top-level package of a user's plug-in."""
    file = source(kind, name)
    module = file.parent if file.name == "__init__.py" else file
    return module.parents[name.count(".") - 1]


def _closure(paths: set[Path], here: Path, packages: tuple[Path, ...]) -> set[Path]:
    skipped = {here / name for name in NOT_FOLLOWED}
    found: set[Path] = set()
    queue = list(paths)
    while queue:
        path = queue.pop()
        if path in found or (path.name == "__init__.py" and here in path.parents) or skipped & {path, path.parent}:
            continue
        found.add(path)
        queue += _imports(path, packages)
    return found


@cache
def _imports(path: Path, packages: tuple[Path, ...]) -> list[Path]:
    """The files of these packages that a file imports."""
    places = {package.name: package.parent for package in packages}
    found: list[Path] = []
    for node in _read(path).imports:
        level, module = (node.level, node.module) if isinstance(node, ast.ImportFrom) else (0, None)
        start = module.split(".") if module else []
        for parts in (start, *([*start, *alias.name.split(".")] for alias in node.names)):
            place = path.parents[level - 1] if level else places.get(parts[0] if parts else "")
            if place:
                imported = place.joinpath(*parts)
                found += [file for file in (imported.with_suffix(".py"), imported / "__init__.py") if file.is_file()]
    return found


@cache
def _files_beside(path: Path, here: Path) -> list[Path]:
    """The files that are no modules, lie beside a module and are named in it, such as a table; in this package also
    those in a directory that is named, such as templates."""
    found: list[Path] = []
    for place in (path.with_name(name) for name in _read(path).names):
        if place.is_dir() and here in place.parents and not (place / "__init__.py").is_file():
            found += [file for file in place.iterdir() if file.is_file()]
        elif place.is_file() and place.suffix != ".py":
            found.append(place)
    return found


class Module(NamedTuple):
    """What counts of a module: its syntax tree without docstrings, as text; its imports; texts that may name a file."""

    tree: str
    imports: list[ast.Import | ast.ImportFrom]
    names: frozenset[str]


@cache
def _read(path: Path) -> Module:
    tree = ast.parse(path.read_bytes())  # of any encoding that Python takes
    imports, texts, nodes = [], set(), deque[ast.AST]([tree])
    while nodes:
        node = nodes.popleft()
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            node.body = [
                line for line in node.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
        nodes.extend(ast.iter_child_nodes(node))
    return Module(ast.dump(tree), imports, frozenset(filter(FILE_NAME.fullmatch, texts)))
