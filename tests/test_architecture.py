"""docs/architecture.md against the code: the rooms, and the way from the command to the formula."""

import ast
import re
import tomllib
from pathlib import Path

import yaml

from tests.conftest import ROOT

DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PIPELINE = ROOT / "pipeline"


def imported_names(path: Path) -> set[str]:
    """Modules of this project that a file imports from."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def test_each_file_on_the_way_to_the_loss_names_the_next():
    files = re.findall(r"^\d\. `([\w/.]+)`", DOCUMENT, re.MULTILINE)
    assert len(files) == 5 and all((ROOT / file).is_file() for file in files)
    snakefile, stage, algorithm, loss, formula = (ROOT / file for file in files)
    module = ".".join(stage.relative_to(ROOT).with_suffix("").parts)
    assert f" {module} " in snakefile.read_text(encoding="utf-8")
    assert "load_algorithm(settings.algorithm.name)" in stage.read_text(encoding="utf-8")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert algorithm.stem == params["defaults"]["algorithm"]["name"]
    for file, following in ((algorithm, loss), (loss, formula)):
        assert ".".join(following.relative_to(ROOT).with_suffix("").parts) in imported_names(file)
    (definition,) = [
        node
        for node in ast.parse(formula.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "matching_loss"
    ]
    assert "log p_θ" in (ast.get_docstring(definition) or "").splitlines()[0]


def test_every_room_is_described_and_ordered():
    described = re.findall(r"^\| `(\w+)/` \|", DOCUMENT, re.MULTILINE)
    rooms = sorted(path.parent.name for path in PIPELINE.glob("*/__init__.py"))
    assert sorted(described) == rooms
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [room for layer in contracts[0]["layers"] for room in layer.split(" | ")]
    assert sorted(layers) == sorted([*rooms, "plugins", "errors"])


def test_rooms_stay_small():
    assert len([path for path in PIPELINE.glob("*.py") if path.name != "__init__.py"]) <= 3
    for room in PIPELINE.glob("*/"):
        assert len([path for path in room.glob("*.py") if path.name != "__init__.py"]) <= 17, room
