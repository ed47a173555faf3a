"""When bases and the reports of suites are stale: what they are made with has changed."""

import json
import shutil
from pathlib import Path

from pipeline.settings.project import Suite
from pipeline.settings.run import Run
from pipeline.workflow import made_with
from pipeline.workflow.made_with import code_and_data, code_and_suite
from tests.conftest import ROOT


def test_a_report_is_stale_when_the_suite_compares_other_runs():
    """Its files alone would not say so: they are all older than the report if one run less is wanted."""
    made = {code_and_suite(Suite(runs=runs, seeds=seeds)) for runs in (["a"], ["a", "b"]) for seeds in (None, [0, 1])}
    assert len(made) == 4


def test_a_base_is_stale_when_its_checkpoint_is_edited_in_place(tmp_path, monkeypatch):
    """But not when the checkpoint is gone: then the imported base stands for it."""
    monkeypatch.chdir(tmp_path)
    timing = Path("data/runs/mine/timings/base.json")
    timing.parent.mkdir(parents=True)
    Path("mine").mkdir()

    def base(path: str = "mine") -> str:
        made_with._checkpoint.cache_clear()  # as in the next Snakemake
        return code_and_data("base", Run(base={"path": path}), "mine")

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
    before, of_split = code_and_data("base", with_file, "mine"), code_and_data("base", split, "mine")
    Path("words.txt").write_text("abd")
    assert code_and_data("base", with_file, "mine") != before
    assert code_and_data("base", split, "mine") == of_split == code_and_data("base", Run(), "mine")


def test_a_long_text_in_the_settings_of_a_task_is_no_file(tmp_path, monkeypatch):
    """Such as what a language model that judges answers is told."""
    (tmp_path / "judged").mkdir()
    text = (ROOT / "examples" / "words.py").read_text()
    (tmp_path / "judged" / "words.py").write_text(text.replace("    skew", "    told: str = ''\n    skew", 1))
    monkeypatch.syspath_prepend(tmp_path)
    assert made_with.data(Run(task={"name": "judged.words", "told": "You are a strict judge. " * 20})) == ""
