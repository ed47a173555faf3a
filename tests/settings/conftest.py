"""Contents of params.yaml, and what Snakemake says to them."""

import copy
import sys
from collections.abc import Callable

import pytest
from snakemake.cli import main

from tests.conftest import said
from tests.small_workflow import SMALL, Workflow


@pytest.fixture
def refused(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict | bytes | None], str]:
    """What Snakemake says to a params.yaml of this content, or to none, before it has written anything."""
    monkeypatch.chdir(workflow.directory)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(content: dict | bytes | None) -> str:
        workflow.params = content
        arguments = workflow.command()[3:]
        path = workflow.directory / "params.yaml"
        path.unlink() if content is None else path.write_bytes(content) if isinstance(content, bytes) else None
        line = said(lambda: main(arguments))
        assert not (workflow.directory / "data").exists()
        return line

    return run


def broken(path: str, value: object) -> dict:
    raw = copy.deepcopy(SMALL)
    if not path and isinstance(value, dict):
        return raw | value
    section = raw
    *parents, key = path.split(".")
    for parent in parents:
        section = section[parent]
    section[key] = value
    return raw
