"""The table of a suite: seeds are averaged, families are kept apart."""

import json
import re

import numpy as np
import pytest

from pipeline.report.run_metrics import selected_round
from pipeline.report.seed_average import by_family, family_row, learning_curve, suite_result
from pipeline.report.tables import for_page, markdown, suite_tables
from pipeline.settings.params_file import parse_params
from pipeline.storage import parquet
from pipeline.workflow.rules import suite_inputs
from tests.conftest import ROOT, Workflow

RESULT = {
    "round": 2,
    "split": "test",
    "sampler": "greedy",
    "length": 16,
    "hardware": "abacus",
    "versions": {"torch": "2"},
    "metrics": {"n": 8, "grid_accuracy": 0.0, "grid_accuracy_se": 0.0},
}


def metrics(name: str, accuracy: float) -> dict:
    """metrics.json of a run of two rounds, whose accuracy is 0, `accuracy`, 2 `accuracy`."""
    at = [
        {"n": 8, "reward": 0.5 + accuracy * k, "grid_accuracy": accuracy * k, "grid_accuracy_se": 0.1} for k in range(3)
    ]
    return {
        "run": name,
        "task": "sudoku",
        "git": "abc",
        "sampler": "greedy",
        "base": at[0],
        "final": at[2],
        "rounds": [{"round": k, "cpu_seconds": 30 * accuracy, **at[k]} for k in (1, 2)],
        "results": [RESULT | {"round": 1}, RESULT | {"metrics": at[2]}, RESULT | {"split": "hard"}],
        "evaluations": [
            {"round": k, "splits": {"test": {"greedy": at[k]}, "hard": {"greedy": {**at[k // 2], "groups": {}}}}}
            for k in range(3)
        ],
        "rollouts": 2000,
        "time": {"cpu_seconds": 7.0},
    }


RUNS = [metrics("one", 0.1), metrics("one-seed1", 0.3), metrics("other", 0.25)]


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


def test_tables():
    """Accuracies in percent; columns that no row fills are left out."""
    shown = suite_tables(suite_result("both", RUNS, {"other": {"grid_accuracy": (0.1, 0.9)}})["rows"])
    short, ends, rollouts, compute = shown.values()
    assert short == [
        ["run", "seeds", "base", "after the last round"],
        ["one", "2", "0.0 ± 0.0 %", "40.0 ± 20.0 %"],
        ["other", "1", "0.0 ± 10.0 %", "50.0 ± 10.0 %"],
    ]
    assert markdown(ends).splitlines() == [
        "| run | seeds | grid_accuracy: base | grid_accuracy | grid_accuracy: published, base → final "
        "| grid_accuracy: each seed | grid_accuracy: hard | rollouts | cpu_seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| one | 2 | 0.0 ± 0.0 % | 40.0 ± 20.0 % |  | 20.0, 60.0 | 20.0 ± 10.0 % | 2,000 | 7 |",
        "| other | 1 | 0.0 ± 10.0 % | 50.0 ± 10.0 % | 10.0 % → 90.0 % |  | 25.0 ± 10.0 % | 2,000 | 7 |",
    ]
    assert markdown(rollouts).splitlines() == [
        "| run | reward: 1,000 | reward: 2,000 | grid_accuracy: 1,000 | grid_accuracy: 2,000 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| one | 0.7 ± 0.1 | 0.9 ± 0.2 | 20.0 ± 10.0 % | 40.0 ± 20.0 % |",
        "| other | 0.75 | 1 | 25.0 ± 10.0 % | 50.0 ± 10.0 % |",
    ]
    assert list(shown)[3] == "At the same compute: sudoku, 12 CPU seconds of rollouts, targets and training"
    assert [line[:4] for line in compute[1:]] == [
        ["one", "40.0 ± 20.0 %", "2,000", "12"],
        ["other", "25.0 ± 10.0 %", "1,000", "8"],
    ]


def test_names_of_others_stay_text_in_markdown():
    """A metric's name is whatever the reward calls it."""
    cells = [["run", "<img src=x onerror=alert(1)>\n| a"], ["[here](https://example.com)", "`b` & *c*"]]
    head, _, body = markdown(cells).splitlines()
    assert head == r"| run | &lt;img src=x onerror=alert(1)&gt; \| a |"
    assert body == r"| \[here\](https://example.com) | \`b\` &amp; \*c\* |"


def test_tables_of_one_row_stand_upright_on_a_page():
    assert for_page([["run", "grid_accuracy"], ["one", "1 %"]]) == [["run", "one"], ["grid accuracy", "1 %"]]
    two = [["run", "base"], ["one", "1 %"], ["other", "2 %"]]
    assert for_page(two) == two


def test_paired_differences():
    """Over the seeds that both families have, minus the first family; Holm's p is corrected for the two rows."""
    at = {"one": (0.1, 0.2, 0.3, 0.2), "worse": (0.05, 0.1, 0.2, 0.15), "other": (0.2, 0.1, 0.3, 0.2), "single": (0.4,)}
    runs = [metrics(f"{name}-seed{k}", value) for name, values in at.items() for k, value in enumerate(values)]
    runs.append(metrics("worse-seed9", 0.5))
    table = suite_tables(suite_result("all", runs, {})["rows"])["Paired by seed: sudoku, differences from one"]
    assert table[0] == [
        "run",
        "seeds",
        *(f"{name}{p}" for name in ("reward", "grid_accuracy") for p in ("", ": p", ": p, Holm")),
    ]
    worse, other = table[1:]
    assert worse[:2] + worse[5:] == ["worse", "4", "-15 ± 2.9 points", "0.12", "0.25"]  # 2 of 16 signs, twice
    assert other == ["other", "4", "+0 ± 0.082", "1", "1", "+0 ± 8.2 points", "1", "1"]


def test_decoding():
    """A row for each sampler; nothing where answers were decoded greedily only."""
    run = metrics("one", 0.25)
    for entry in run["evaluations"]:
        for split, accuracy in (("test", 0.4), ("hard", 0.2)):
            entry["splits"][split]["ancestral"] = {"n": 8, "grid_accuracy": accuracy, "grid_accuracy_se": 0.1}
    assert suite_tables([family_row("one", [run], {})])["By decoding: one"] == [
        ["decoding", "grid_accuracy: base", "grid_accuracy", "grid_accuracy: hard"],
        ["greedy", "0.0 ± 10.0 %", "50.0 ± 10.0 %", "25.0 ± 10.0 %"],
        ["ancestral", "", "40.0 ± 10.0 %", "20.0 ± 10.0 %"],
    ]
    assert "By decoding: one" not in suite_tables([family_row("one", RUNS[:1], {})])


def test_how_soon_the_first_row_has_the_reward_of_another():
    """After 1,000 of the 2,000 rollouts the reward is at least as high; a row that ends higher is never reached."""
    rows = [
        family_row(name, [metrics(name, value)], {}) for name, value in (("best", 0.4), ("half", 0.2), ("more", 0.5))
    ]
    (*_, compute) = suite_tables(rows).values()
    assert [line[-1] for line in compute] == ["as soon by best", "", "1,000 (0.5)", "never"]


def test_a_base_is_no_result_of_a_method():
    """A family that was evaluated late only has empty cells where the others' budget is smaller."""
    late = metrics("late", 0.25)
    del late["evaluations"][1]
    tables = suite_tables([family_row(name, [run], {}) for name, run in (("one", RUNS[0]), ("late", late))])
    *_, rollouts, compute = tables.values()
    assert rollouts[2] == ["late", "", "1", "", "50.0 ± 10.0 %"]
    assert compute[2][:4] == ["late", "", "", ""]


def test_lengths():
    """The last round on the test split, by number of answer tokens; nothing where there is one number only."""
    assert "By number of answer tokens" not in suite_tables([family_row("one", RUNS[:2], {})])
    longer = [RESULT | {"length": 32, "metrics": {**RESULT["metrics"], "grid_accuracy": 0.5}}]
    longer += [RESULT | {"round": 0, "length": length} for length in (16, 32)]
    rows = [family_row(name, [RUNS[0] | {"results": RUNS[0]["results"] + longer}], {}) for name in ("one", "other")]
    assert suite_tables(rows)["By number of answer tokens"] == [
        ["run", "seeds", "16", "32"],
        ["base of one", "1", "0.0 %", "0.0 %"],
        ["one", "1", "20.0 ± 10.0 %", "50.0 %"],
        ["other", "1", "20.0 ± 10.0 %", "50.0 %"],
    ]


def test_the_round_that_the_validation_split_selects():
    """The best there, the earliest of equals; the numbers are the test split's."""

    def evaluation(n: int, accuracy: float) -> dict:
        return {"greedy": {"n": n, "accuracy": accuracy, "accuracy_se": 0.1, "groups": {}}}

    found = [
        {"round": k, "splits": {"validation": evaluation(4, best), "test": evaluation(8, k / 10)}}
        for k, best in enumerate((0.1, 0.5, 0.5))
    ]
    best = {"round": 1, "validation_accuracy": 0.5, "n": 8, "accuracy": 0.1, "accuracy_se": 0.1}
    assert selected_round(found) == best
    assert selected_round([{"round": 0, "splits": {"test": evaluation(8, 0.0)}}]) is None


def test_curves():
    """From the base on: rollouts and CPU seconds spent so far, mean and error over seeds."""
    assert list(by_family(RUNS)) == ["one", "other"]
    base, first, last = learning_curve(RUNS[:2])
    assert (base["round"], base["rollouts"], base["cpu_seconds"], base["grid_accuracy"]) == (0, 0, 0, 0)
    assert (first["rollouts"], first["cpu_seconds"], last["rollouts"], last["cpu_seconds"]) == (1000, 6, 2000, 12)
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
            "again": {"extends": "grid", "seed": 1},
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
