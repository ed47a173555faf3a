"""Digests of the code that each stage runs: editing a module reruns the stages that use it, and no others."""

import ast
import hashlib
from functools import cache
from pathlib import Path

import pipeline
from pipeline.plugins import source
from pipeline.settings.run import Run
from pipeline.settings.stages import STAGES

NOT_FOLLOWED = ("settings", "training/throughput.py")
"""Imported code that cannot change a stage's results: schemas, whose values are in the stage's settings, and
measurements of speed."""


def code_digest(stage: str, run: Run | None = None) -> str:
    """A digest of the modules that a stage runs: its own file, the run's plug-ins, and what these import from this
    package or, in the case of a user's plug-in, from the user's package.

    The digest is that of the syntax trees without docstrings: comments and formatting do not change it.
    """
    names = {} if run is None else {"task": run.task.name, "model": run.model.name, "algorithm": run.algorithm.name}
    return _digest(stage, tuple((kind, names[kind]) for kind in names if kind in STAGES[stage].model_fields))


@cache
def _digest(stage: str, plugins: tuple[tuple[str, str], ...]) -> str:
    here = Path(pipeline.__file__).parent
    entry = {here / "stages" / f"{stage}.py"} | {source(kind, name) for kind, name in plugins}
    own = {_package(kind, name) for kind, name in plugins if "." in name}
    modules = sorted(path.name + _syntax_tree(path) for path in _closure(entry, here, (here, *sorted(own))))
    return hashlib.sha256("".join(modules).encode()).hexdigest()[:16]


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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        level, module = (node.level, node.module) if isinstance(node, ast.ImportFrom) else (0, None)
        start = module.split(".") if module else []
        for parts in (start, *([*start, *alias.name.split(".")] for alias in node.names)):
            place = path.parents[level - 1] if level else places.get(parts[0] if parts else "")
            if place:
                imported = place.joinpath(*parts)
                found += [file for file in (imported.with_suffix(".py"), imported / "__init__.py") if file.is_file()]
    return found


@cache
def _syntax_tree(path: Path) -> str:
    """The syntax tree of a file without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            node.body = [
                line for line in node.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return ast.dump(tree)
