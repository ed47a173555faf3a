"""Parquet files between stages: rollouts, targets, answers and all others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.answers import read_shards, read_splits
from pipeline.evaluation.summary import summarize
from pipeline.storage import parquet
from tests.hostile.harness import NO_TEXT, changed, damaged, examples, line_of, working_directory

STORED: dict[str, list] = {
    "round": [1] * 4,
    "prompt_id": [0, 0, 7, 7],
    "state_id": [0, 0, 1, 1],
    "sample_id": [0, 1, 0, 1],
    "prompt_tokens": [[1], [1], [2, 2], [2, 2]],
    "start": [[3, 3]] * 4,
    "tokens": [[1, 0], [2, 1], [0, 0], [1, 1]],
    "unmask_step": [[0, 1], [1, 0], [0, 0], [1, 0]],
    "log_prob": [[-1.0, 0.0], [-2.0, -0.5], [-1.0, -1.0], [-0.5, -3.0]],
    "reward": [0.0, 1.0, 0.5, 0.5],
}


def use_rollouts(path: Path) -> None:
    limits = {"round": range(1, 2), "state_id": range(2), "sample_id": range(2)}
    table = parquet.read([path], parquet.ROLLOUTS, completions=2, vocabulary=range(4), limits=limits)
    for name in ("start", "tokens", "unmask_step", "log_prob"):
        assert parquet.matrix(table, name).shape == (4, 2)
    assert np.isfinite(parquet.matrix(table, "prompt_tokens", fill=0)).all()


def test_unchanged_rollouts_work():
    with working_directory():
        parquet.write(Path("x.parquet"), STORED, parquet.ROLLOUTS, {})
        use_rollouts(Path("x.parquet"))


@examples(80)
@given(changed(STORED), st.booleans(), st.data())
def test_rollouts(columns, typed, data):
    """With the types of the schema where they fit, else with those that Arrow finds, else damaged bytes."""
    with working_directory() as work:
        path = work / "x.parquet"
        try:
            if typed:
                parquet.write(path, columns, parquet.ROLLOUTS, {})
            else:
                pq.write_table(pa.table(columns), path)
        except Exception:  # whatever the library raises for what it cannot hold
            parquet.write(path, STORED, parquet.ROLLOUTS, {})
            path.write_bytes(data.draw(damaged(path.read_bytes())))
        line_of(lambda: use_rollouts(path), "x.parquet")


WEIGHTED = {name: [0.0] * 4 for name in parquet.TARGETS.names if name not in STORED}
ANSWER = {"split": "test", "sampler": "greedy", "length": 4, "answer": "x", "hardware": "cpu"}
FILES: dict[str, tuple[pa.Schema, dict[str, list], Callable[[Path], object]]] = {
    "items": (
        parquet.ITEMS,
        {"item_id": [0, 1], **{name: ["a", "b"] for name in parquet.ITEMS.names[1:]}},
        lambda path: read_splits([path]),
    ),
    "answers": (
        parquet.ANSWERS,
        {name: [value] * 2 for name, value in ANSWER.items()}
        | {"item_id": [0, 1], "metrics": [{"reward": 1.0, "right": 0.0}] * 2},
        lambda path: [summarize([answer.metrics]) for answer in read_shards([path])],
    ),
    "joint": (parquet.JOINT, {name: [0, 1, 0, 1] for name in parquet.JOINT.names}, parquet.read_laws),
    "targets": (parquet.TARGETS, STORED | WEIGHTED, lambda path: parquet.read_targets(path, 1, 2, range(4))),
    "references": (
        parquet.REFERENCES,
        {"state_id": [0, 0], "sample_id": [0, 1], "base_log_prob": [[-1.0], [-2.0]]},
        lambda path: parquet.read([path], parquet.REFERENCES),
    ),
}


def write(columns: dict[str, list], schema: pa.Schema) -> None:
    """With mappings as Arrow wants them."""
    made = {
        name: [list(value.items()) if isinstance(value, dict) else value for value in columns[name]] for name in columns
    }
    parquet.write(Path("x.parquet"), made, schema, {})


@pytest.mark.parametrize("name", FILES)
def test_unchanged_files_between_stages_work(name):
    schema, columns, read = FILES[name]
    with working_directory():
        write(columns, schema)
        read(Path("x.parquet"))


@examples(60)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_files_between_stages(name, data):
    """Columns with other values of the schema's types, as far as Arrow can hold them, else damaged bytes."""
    schema, columns, read = FILES[name]
    with working_directory() as work:
        path = work / "x.parquet"
        write(columns, schema)
        try:
            write(data.draw(changed(columns)), schema)
        except Exception:  # whatever the library raises for what it cannot hold
            path.write_bytes(data.draw(damaged(path.read_bytes())))
        line_of(lambda: read(path), "x.parquet")


def test_items_that_are_no_text():
    with working_directory():
        columns = {name: [0, 1] if name == "item_id" else NO_TEXT for name in parquet.ITEMS.names}
        pq.write_table(pa.table(columns, schema=parquet.ITEMS), "x.parquet")
        assert line_of(lambda: parquet.read_items(Path("x.parquet")), "x.parquet is not a complete Parquet file")


def test_laws_without_some_pair():
    with working_directory():
        parquet.write(Path("x.parquet"), {name: [0, 1] for name in parquet.JOINT.names}, parquet.JOINT, {})
        assert line_of(lambda: parquet.read_laws(Path("x.parquet")), "x.parquet has 2 rows, not one for each pair")
