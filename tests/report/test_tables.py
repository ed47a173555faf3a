"""The tables of a suite: what their cells say, and which rows and columns they have."""

import pytest

from pipeline.report.seed_average import by_family, family_row, suite_result
from pipeline.report.tables import estimator_tables, for_page, markdown, suite_tables
from tests.report.suites import RESULT, RUNS, metrics


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


@pytest.mark.parametrize("everywhere", [True, False])
def test_paired_differences_of_sampled_answers(everywhere):
    """Columns of their own, if all runs were tested by ancestral sampling."""
    runs = [metrics(f"{name}-seed{k}", 0.25) for name in ("one", "other") for k in range(2)]
    for run, accuracy in zip(runs[: 4 if everywhere else 2], (0.1, 0.2, 0.4, 0.3), strict=False):
        run["evaluations"][-1]["splits"]["test"]["ancestral"] = {"n": 8, "grid_accuracy": accuracy}
    rows = [family_row(name, members, {}) for name, members in by_family(runs).items()]
    head, other = suite_tables(rows)["Paired by seed: sudoku, differences from one"]
    found = dict(zip(head, other, strict=True))
    assert found.get("ancestral grid_accuracy") == ("+20 ± 10 points" if everywhere else None)


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


def test_estimators_are_compared_at_the_middle_number_of_completions():
    rows = [
        {"policy": policy, "completions": count, "estimator": name, "bias": 0.25, "bias_noise": 0.5, "variance": count}
        for policy in ("base", "last")
        for count in (4, 16, 64)
        for name in ("first", "all")
    ]
    assert estimator_tables({"checkerboard": rows}) == {
        "Estimators of Q*: checkerboard, K = 16": [
            ["policy", "first", "all"],
            ["base: variance", "16", "16"],
            ["base: squared bias", "0.25 ± 0.5", "0.25 ± 0.5"],
            ["last: variance", "16", "16"],
            ["last: squared bias", "0.25 ± 0.5", "0.25 ± 0.5"],
        ]
    }
