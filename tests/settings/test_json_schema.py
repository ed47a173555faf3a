"""params.schema.json, for editors: it is that of the code, takes params.yaml, and refuses what shall be underlined."""

import json

import pytest
import yaml
from jsonschema import Draft7Validator

from pipeline.settings.json_schema import params_schema
from tests.conftest import ROOT

PARAMS = (ROOT / "params.yaml").read_text(encoding="utf-8")


def errors(changes: dict) -> list[str]:
    """What the schema says of params.yaml with one more run."""
    params = yaml.safe_load(PARAMS)
    params["runs"]["mine"] = changes
    return [error.message for error in Draft7Validator(params_schema()).iter_errors(params)]


def test_the_committed_schema_is_that_of_the_code():
    Draft7Validator.check_schema(params_schema())
    committed = json.loads((ROOT / "params.schema.json").read_text(encoding="utf-8"))
    assert committed == params_schema(), "python -m pipeline.settings.json_schema > params.schema.json"
    assert PARAMS.startswith("# yaml-language-server: $schema=params.schema.json\n")


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"extends": "smoke-chat", "task": {"name": "mine.task", "whatever": 1}},
        {"algorithm": {"name": "mine.algorithm", "whatever": 1}, "model": {"name": "mine.model"}},
        {"extends": "table-d1", "algorithm": {"beta": 0.1}, "task": {"data": {"path": "x.jsonl"}}},
    ],
)
def test_it_takes_params_yaml_with(run):
    assert errors(run) == []


@pytest.mark.parametrize(
    "run",
    [
        {"rouns": 3},
        {"rounds": -1},
        {"task": {"name": "sudok"}},
        {"task": {"train_item": 3}},
        {"algorithm": {"name": "dam", "alpha": "large"}},
        {"train": {"adapter": {"ranks": 3}}},
    ],
)
def test_it_underlines(run):
    assert errors(run) != []
