"""The numbers of a suite: seeds are averaged, families are kept apart; whole suites, run by Snakemake."""

import json
import re

import numpy as np
import pytest

from pipeline.report.seed_average import by_family, learning_curve, suite_result
from pipeline.storage import parquet
from tests.conftest import ROOT
from tests.report.suites import RUNS
from tests.small_workflow import Workflow


def test_rows():
    """Mean over seeds, s/√n as error; the errors over items enter for a single seed alone."""
    found = suite_result("both", RUNS, {"other": {"grid_accuracy": (0.1, 0.9)}})
    one, other = found["rows"]
    assert (found["git"], found["hardware"], found["versions"]) == (["abc"], ["abacus"], {"torch": "2"})
    assert one["final"]["grid_accuracy"] == pytest.approx(0.4)
    assert one["final"]["grid_accuracy_se"] == pytest.approx(0.2)
    assert one["splits"]["hard"]["grid_accuracy"] == pytest.approx(0.2)
    assert (one["run"], one["n"], one["seeds"], one["lengths"]) == ("one", 2, [0.2, 0.6], {})
    assert (other["run"], other["n"], other["rollouts"], one["published"]) == ("other", 1, 2000, {})
    assert [other[part]["grid_accuracy_se"] for part in ("base", "final")] == [0.1, 0.1]
    assert (other["splits"]["hard"]["grid_accuracy_se"], other["cpu_seconds_se"]) == (0.1, 0)


def test_curves():
    """From the base on: rollouts and CPU seconds spent so far, mean and error over seeds."""
    assert list(by_family(RUNS)) == ["one", "other"]
    base, first, last = learning_curve(RUNS[:2])
    assert (base["round"], base["rollouts"], base["cpu_seconds"], base["grid_accuracy"]) == (0, 0, 0, 0)
    assert (first["rollouts"], first["cpu_seconds"], last["rollouts"], last["cpu_seconds"]) == (1000, 6, 2000, 12)
    assert first["grid_accuracy"] == pytest.approx(0.2)
    assert first["grid_accuracy_se"] == pytest.approx(0.1)


def test_a_suite_of_the_grid(workflow: Workflow):
    """Real runs: one base for all, the KL of the table recomputed from joint.parquet, figures in one file."""
    workflow.params["runs"] = {
        "small": {
            "rounds": 1,
            "task": {"name": "checkerboard", "base_items": 10, "test_items": 4},
            "model": {"name": "tabular"},
            "base": {"exact": True},
            "rollout": {"start": "remasked"},
            "algorithm": {"name": "dam", "alpha": 1.0, "weights": "direct", "jumps": "first"},
        },
        "decoded": {"extends": "small", "rounds": 0, "algorithm": {"name": "svdd", "alpha": 1.0}},
    }
    workflow.params["suites"] = {"both": {"runs": ["small", "decoded"], "seeds": [0, 1]}}
    pending = workflow.pending("both")
    assert (pending["base"], pending["joint"], pending["estimators"], pending["compare"]) == (2, 4, 1, 1)
    workflow("both")
    results = workflow.directory / "data" / "results"
    small, decoded = json.loads((results / "both.json").read_text())["rows"]
    laws = [parquet.read_laws(path) for path in sorted((workflow.directory / "data/runs").glob("small*/joint.parquet"))]
    kl = [(law["target"] * np.log(law["target"] / law["model"])).sum() for law in laws]
    assert small["final"]["kl"] == pytest.approx(np.mean(kl), rel=1e-6)
    assert small["n"] == decoded["n"] == 2
    assert decoded["final"]["kl"] < small["base"]["kl"]
    html = (results / "both.html").read_text()
    assert "Estimators of Q*: checkerboard, K = 64" in html
    assert html.count("<svg") == 4 + 4 + 4  # curves, laws (target, base, two families), errors of the estimators
    assert "decoded" in (results / "both.svg").read_text()


REWARD_ALONE = """
def score(item: Item, answer: str) -> dict[str, float]:
    return {"reward": 3.0 * answer.count("c") - 1}


PLUGIN = Task(settings=Words, alphabet=LETTERS + ">?", answer_length=3, items=items, score=score, render=render)
"""


def test_a_reward_alone_judges_the_runs(workflow: Workflow):
    """And it may be any number: nothing is shown in percent."""
    package = workflow.directory / "mine"
    package.mkdir()
    (package / "task.py").write_text((ROOT / "examples" / "words.py").read_text() + REWARD_ALONE)
    workflow.params["defaults"] |= {"task": {"name": "mine.task"}, "rounds": 1}
    workflow.params["suites"] = {"two": {"runs": ["small"], "seeds": [0, 1]}}
    said = workflow("two")
    found = json.loads((workflow.directory / "data/results/two.json").read_text())["rows"][0]
    rewards = [
        json.loads((workflow.directory / "data/runs" / run / "metrics.json").read_text())["final"]["reward"]
        for run in ("small", "small-seed1")
    ]
    assert (found["headline"], found["seeds"], found["final"]["reward"]) == ("reward", rewards, np.mean(rewards))
    assert re.search(r"^reward: base -?[\d.]+, final -?[\d.]+$", said, re.MULTILINE)  # there is one test item
    report = (workflow.run_directory / "report.html").read_text()
    assert "with the lowest reward" in report and "accuracy" not in report
