"""A checkpoint, and what preflight and the estimate say of a run."""

from pathlib import Path

import pytest

from pipeline.settings.params_file import parse_params
from pipeline.settings.project import Hardware
from pipeline.settings.run import Run
from pipeline.workflow import preflight
from pipeline.workflow.estimate import Estimate, shape_of
from tests.models import hub

NOWHERE = Path("no/such/place")
BLOCKS = {"rollout": {"block_length": 4}, "evaluate": {"block_length": 4}}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return hub.write_chat(tmp_path_factory.mktemp("chat"))


def problems(run: dict, imported: Path = NOWHERE, **hardware: object) -> list[str]:
    raw = {"default_run": "small", "runs": {"small": run}}
    found = preflight.problems(parse_params(raw).runs["small"], Hardware.model_validate(hardware), imported)
    return list(found)


def chat(path: object, **sections: object) -> dict:
    task = {"name": "gsm8k", "data": {"path": "x.jsonl"}, "answer_length": 64}
    return {"task": task, "base": {"path": str(path)}, **sections}


def estimated(run: Run, **hardware: object) -> Estimate:
    shape = shape_of(run)
    assert shape is not None
    return Estimate(run, Hardware(**hardware), shape)
