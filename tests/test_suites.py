"""The table of a suite: seeds are averaged, families are kept apart."""

import json

import numpy as np
import pytest

from pipeline import records
from pipeline.metrics import selected
from pipeline.params import parse_params
from pipeline.suites import by_family, curves, lengths, markdown, row, table
from pipeline.workflow import suite_inputs
from tests.conftest import Workflow

RESULT = {"round": 2, "split": "test", "sampler": "greedy", "length": 16, "metrics": {"n": 8, "grid_accuracy": 0.0}}


def metrics(name: str, accuracy: float) -> dict:
    rounds = [{"round": k, "grid_accuracy": accuracy * k, "cpu_seconds": 3.0} for k in (1, 2)]
    final = {"n": 8, "reward": 0.5, "grid_accuracy": accuracy * 2, "grid_accuracy_se": 0.1}
    base = {"n": 8, "reward": 0.5, "grid_accuracy": 0.0, "grid_accuracy_se": 0.1}
    effort = {"rounds": rounds, "rollouts": 20, "time": {"cpu_seconds": 7.0}}
    results = [RESULT | {"round": 1}, RESULT | {"metrics": final}, RESULT | {"split": "hard"}]
    return {
        "run": name,
        "task": "sudoku",
        "sampler": "greedy",
        "base": base,
        "final": final,
        "results": results,
        **effort,
    }


RUNS = [metrics("one", 0.1), metrics("one-seed1", 0.3), metrics("other", 0.5)]


def test_table():
    """Mean over seeds, s/√n as error; the errors over items do not enter."""
    families = by_family(RUNS)
    assert list(families) == ["one", "other"]
    rows = [row(name, runs) for name, runs in families.items()]
    assert rows[0]["final"]["grid_accuracy"] == pytest.approx(0.4)
    assert rows[0]["final"]["grid_accuracy_se"] == pytest.approx(0.2)
    assert (rows[0]["n"], rows[0]["rollouts"], rows[1]["n"]) == (2, 20, 1)
    lines = markdown(table(rows)).splitlines()
    assert lines[0] == "| run | seeds | grid_accuracy: base | grid_accuracy | rollouts | cpu_seconds |"
    assert lines[2:] == ["| one | 2 | 0 ± 0 | 0.4 ± 0.2 | 20 | 7 |", "| other | 1 | 0 | 1 | 20 | 7 |"]


def test_lengths():
    """The last round on the test split, by number of answer tokens; nothing where there is one number only."""
    assert lengths(by_family(RUNS)) == []
    two = [run | {"results": [*run["results"], RESULT | {"length": 32, "metrics": {"n": 8, "grid_accuracy": k}}]}
           for k, run in enumerate(RUNS[:2])]  # fmt: skip
    assert lengths(by_family(two)) == [["run", "seeds", "16", "32"], ["one", "2", "0.4 ± 0.2", "0.5 ± 0.5"]]


def test_the_round_that_the_validation_split_selects():
    """The best there, the earliest of equals; the numbers are the test split's."""
    found = {k: {"validation": {"greedy": {"n": 4, "accuracy": best, "groups": {}}},
                 "test": {"greedy": {"n": 8, "accuracy": k / 10, "groups": {}}}}
             for k, best in enumerate((0.1, 0.5, 0.5))}  # fmt: skip
    assert selected(found) == {"round": 1, "validation_accuracy": 0.5, "n": 8, "accuracy": 0.1}
    assert selected({0: {"test": found[0]["test"]}}) is None


def test_curves():
    """From the base on: rollouts and CPU seconds spent so far, mean and error over seeds."""
    base, first, last = curves(RUNS[:2])
    assert (base["round"], base["rollouts"], base["cpu_seconds"], base["grid_accuracy"]) == (0, 0, 0, 0)
    assert (first["rollouts"], first["cpu_seconds"], last["rollouts"], last["cpu_seconds"]) == (10, 3, 20, 6)
    assert first["grid_accuracy"] == pytest.approx(0.2)
    assert first["grid_accuracy_se"] == pytest.approx(0.1)


def test_inputs_of_a_suite():
    """The laws of enumerated tasks, and the estimators once for each of them, from a run that trains."""
    raw = {
        "default_run": "words",
        "runs": {
            "words": {"task": {"name": "examples.words"}},
            "decoded": {"task": {"name": "pinwheel"}, "rounds": 0, "algorithm": {"name": "svdd"}},
            "grid": {"task": {"name": "pinwheel"}},
            "again": {"like": "grid", "seed": 1},
        },
    }
    inputs = suite_inputs(["words", "decoded", "grid", "again"], parse_params(raw).runs)
    assert [path.split("/")[2] for path in inputs["metrics"]] == ["words", "decoded", "grid", "again"]
    assert [path.split("/")[2] for path in inputs["joints"]] == ["decoded", "grid", "again"]
    assert inputs["estimators"] == ["data/runs/grid/estimators.json"]


def test_a_suite_of_the_grid(workflow: Workflow):
    """Real runs: one base for all, the KL of the table recomputed from joint.parquet, figures in one file."""
    workflow.params["runs"] = {
        "small": {
            "rounds": 1,
            "task": {"name": "checkerboard", "base_items": 10, "test_items": 4},
            "model": {"name": "tabular"},
            "base": {"exact": True},
            "rollout": {"branch": "reciprocal"},
            "algorithm": {"name": "dam", "alpha": 1.0, "tilt": "direct", "jumps": "first"},
        },
        "decoded": {"like": "small", "rounds": 0, "algorithm": {"name": "svdd", "alpha": 1.0}},
    }
    workflow.params["suites"] = {"both": {"runs": ["small", "decoded"], "seeds": [0, 1]}}
    pending = workflow.pending("both")
    assert (pending["base"], pending["joint"], pending["estimators"], pending["compare"]) == (2, 4, 1, 1)
    workflow("both")
    suite = workflow.directory / "data" / "suites" / "both"
    small, decoded = json.loads((suite / "table.json").read_text())
    laws = [records.read_laws(path) for path in sorted((workflow.directory / "data/runs").glob("small*/joint.parquet"))]
    kl = [(law["target"] * np.log(law["target"] / law["model"])).sum() for law in laws]
    assert small["final"]["kl"] == pytest.approx(np.mean(kl), rel=1e-6)
    assert small["n"] == decoded["n"] == 2
    assert decoded["final"]["kl"] < small["base"]["kl"]
    html = (suite / "report.html").read_text()
    assert html.count("<svg") == 3
    assert "decoded" in (suite / "curves.svg").read_text()
