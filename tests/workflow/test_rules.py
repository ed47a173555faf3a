"""What the Snakefile takes from the logs of reports; inputs, and what bases and a suite's report are made with."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.settings.params_file import parse_params
from pipeline.settings.project import Suite
from pipeline.settings.run import Run
from pipeline.workflow import rules
from pipeline.workflow.rules import made_with, made_with_suite, results, suite_inputs
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


def test_a_report_is_stale_when_the_suite_compares_other_runs():
    """Its files alone would not say so: they are all older than the report if one run less is wanted."""
    made = {made_with_suite(Suite(runs=runs, seeds=seeds)) for runs in (["a"], ["a", "b"]) for seeds in (None, [0, 1])}
    assert len(made) == 4


def test_a_base_is_stale_when_its_checkpoint_is_edited_in_place(tmp_path, monkeypatch):
    """But not when the checkpoint is gone: then the imported base stands for it."""
    monkeypatch.chdir(tmp_path)
    timing = Path("data/runs/mine/timings/base.json")
    timing.parent.mkdir(parents=True)
    Path("mine").mkdir()

    def base(path: str = "mine") -> str:
        rules._checkpoint.cache_clear()  # as in the next Snakemake
        return made_with("base", Run(base={"path": path}), "mine")

    Path("mine/config.json").write_text("{}")
    before = base()
    timing.write_text(json.dumps({"origin": {"code": before}}))
    Path("mine/config.json").touch()
    assert base() == before and " checkpoint:" in before
    Path("mine/config.json").write_text("{ }")
    assert base() != before
    shutil.rmtree("mine")
    assert base() == before
    timing.unlink()
    assert " " not in base() and base() == base("GSAI-ML/LLaDA-8B-Base")


def test_a_base_is_stale_when_its_texts_are_edited(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("abc")
    with_file, split = (Run(base={"data": data}) for data in ("words.txt", "task"))
    before, of_split = made_with("base", with_file, "mine"), made_with("base", split, "mine")
    Path("words.txt").write_text("abd")
    assert made_with("base", with_file, "mine") != before
    assert made_with("base", split, "mine") == of_split == made_with("base", Run(), "mine")


def test_what_follows_a_prompt():
    """For rule `base`: the longest answer of each prefill in the runs that share it."""
    first = chat("x", rollout={"prefill": "<r>", "length": 80}, evaluate={"prefill": "<r>", "lengths": [64, 512]})
    params = parse_params({"default_run": "a", "runs": {"a": first, "b": {"extends": "a", "rollout": {"length": 90}}}})
    found = json.loads(rules.prompt_limits("a", params.runs, {"a": "a", "b": "a"}))
    assert found == {"train": [["", 64], ["<r>", 90]], "held_out": [["", 64], ["<r>", 512]]}


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
