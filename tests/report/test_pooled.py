"""Families whose seeds were computed on several machines: pooled numbers are those of one suite with all seeds."""

import json

import pytest

from pipeline.errors import PipelineError
from pipeline.report.pooled import pooled
from pipeline.report.seed_average import suite_result
from pipeline.report.tables import suite_tables
from pipeline.report.update_docs import with_current_tables
from tests.report.suites import metrics

RUNS = [
    metrics(f"{name}-seed{seed}", accuracy)
    for name, accuracies in {"one": (0.1, 0.3, 0.2, 0.45), "other": (0.25, 0.05, 0.15, 0.41)}.items()
    for seed, accuracy in enumerate(accuracies)
]


def rows(seeds: range) -> list:
    return suite_result("part", [run for run in RUNS if int(run["run"][-1]) in seeds], {})["rows"]


def flat(value, place=()):
    """Every number of nested objects and lists with its place."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(part, (*place, key))
    elif isinstance(value, int | float):
        yield place, pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("first", [2, 3], ids=["two and two", "three and one"])
def test_pooled_rows_are_those_of_all_seeds(first):
    """One seed has the error over its items, which does not enter; tables and paired tests are the same as well."""
    found, whole = pooled([*rows(range(first)), *rows(range(first, 4))]), rows(range(4))
    assert list(flat(found)) == list(flat(whole))
    assert suite_tables(found) == suite_tables(whole)
    assert suite_tables(whole)["Paired by seed: sudoku, differences from one"][1][:2] == ["other", "4"]


def test_a_block_that_names_two_files(tmp_path):
    for name, seeds in {"a": range(3), "b": range(3, 4)}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows(seeds)}))
    text = with_current_tables("<!-- In short: a.json b.json -->\n<!-- end -->", tmp_path)
    assert "| one | 4 | 0.0 ± 0.0 % | 52.5 ± 14.9 % |" in text


def test_a_seed_in_two_files():
    with pytest.raises(PipelineError, match=r"^two files have one with seed 1$"):
        pooled([*rows(range(2)), *rows(range(1, 4))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("by_seed"), "two files have one, and one of them does not name its seeds"),
        (lambda row: row["final"].pop("grid_accuracy"), "one file has the metrics n, grid_accuracy, "),
    ],
)
def test_rows_that_do_not_fit_together(change, message):
    other = rows(range(2, 4))
    change(other[0])
    with pytest.raises(PipelineError, match=message):
        pooled([*rows(range(2)), *other])


def test_other_rounds():
    longer = rows(range(2, 4))
    longer[0]["curve"][-1]["round"] = 4
    with pytest.raises(PipelineError, match=r"one was evaluated after rounds \[0, 1, 2\] in one file, \[0, 1, 4\]"):
        pooled([*rows(range(2)), *longer])
