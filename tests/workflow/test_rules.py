"""What the Snakefile takes from the logs of reports, and inputs of its rules."""

import json
import shlex
from pathlib import Path

import pytest

from pipeline.settings.params_file import parse_params
from pipeline.workflow import rules
from pipeline.workflow.rules import results, suite_inputs
from tests.workflow.conftest import chat


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("data/runs/mine/logs")
    folder.mkdir(parents=True)
    return folder


def test_a_log_may_hold_any_bytes(logs):
    """A compiler that a reward calls writes in its own encoding."""
    (logs / "report.log").write_bytes(b"accuracy 0.5 \xb1 0.1\n")
    assert "accuracy 0.5" in results(["mine"], since=0)


def test_what_follows_a_prompt():
    """For rule `base`: the longest answer of each prefill in the runs that share it."""
    first = chat("x", rollout={"prefill": "<r>", "length": 80}, evaluate={"prefill": "<r>", "lengths": [64, 512]})
    params = parse_params({"default_run": "a", "runs": {"a": first, "b": {"extends": "a", "rollout": {"length": 90}}}})
    found = json.loads(rules.prompt_limits("a", params.runs, {"a": "a", "b": "a"}))
    assert found == {"train": [["", 64], ["<r>", 90]], "held_out": [["", 64], ["<r>", 512]]}


def test_paths_of_python_and_of_temporary_files_may_have_spaces():
    """Both are the user's: an environment in `My Projects`, a TMPDIR."""
    module = ["-m", "pipeline.runtime.fork_server", "run", "/a b/s", "2"]
    assert shlex.split(rules.launch("/My Projects/python", "/a b/s", ranks=2, devices=2)) == [
        *("JOB_DEVICES=2", "/My Projects/python", *module),
    ]
    assert shlex.split(rules.launch("/My Projects/python"))[0] == "/My Projects/python"


def test_inputs_of_a_suite():
    """The laws of enumerated tasks, and the estimators once for each of them, from a run that trains."""
    raw = {
        "default_run": "words",
        "runs": {
            "words": {"task": {"name": "examples.words"}},
            "decoded": {"task": {"name": "pinwheel"}, "rounds": 0, "algorithm": {"name": "svdd"}},
            "grid": {"task": {"name": "pinwheel"}},
            "again": {"extends": "grid", "seed": 1},
        },
    }
    inputs = suite_inputs(["words", "decoded", "grid", "again"], parse_params(raw).runs)
    assert [path.split("/")[2] for path in inputs["metrics"]] == ["words", "decoded", "grid", "again"]
    assert [path.split("/")[2] for path in inputs["joints"]] == ["decoded", "grid", "again"]
    assert inputs["estimators"] == ["data/runs/grid/estimators.json"]
