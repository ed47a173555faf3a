"""Data files of users, Parquet files between stages, and seals of runs."""

import argparse
import csv
import io
import json
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
from pipeline.plugins import load_task
from pipeline.settings.stages import PrepareSettings
from pipeline.stages import prepare
from pipeline.storage import parquet
from pipeline.workflow import seal
from tests.hostile.harness import VALUES, changed, damaged, examples, json_bytes, line_of, working_directory

PUZZLES = ("0034341221434321", "1200341221434321", "1234001221434321", "1234340021434321")
ROWS: dict[str, list[dict]] = {
    "gsm8k": [{"question": f"{n} and 2?", "answer": f"so #### {n + 2}", "id": n} for n in range(4)],
    "math500": [{"problem": f"{n}/3?", "solution": f"\\boxed{{{n}/3}}", "level": n} for n in range(4)],
    "countdown": [{"nums": [3, 4, 5 + n], "target": 12 + n, "split": "train"} for n in range(4)],
    "sudoku": [
        {"Puzzle": puzzle, "Solution": "1234341221434321", "split": split}
        for puzzle, split in zip(PUZZLES, ("train", "train", "test", "train"), strict=True)
    ],
}


def as_csv(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, sorted({name for row in rows for name in row}))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


WRITERS = {".jsonl": lambda rows: b"\n".join(map(json_bytes, rows)), ".csv": as_csv, ".parquet": as_parquet}


def prepare_items(task: str, path: Path) -> None:
    """The whole stage: read the rows, make the items, write them; then read them as the next stage does."""
    sizes = {"base_items": 5, "hard_items": 0} if task == "sudoku" else {"base_items": 5} if task == "countdown" else {}
    section = load_task(task).settings(name=task, data={"path": str(path), "test_items": 1}, **sizes)
    prepare.run(argparse.Namespace(out=Path("items")), PrepareSettings(seed=0, task=section))
    for split in ("base", "train", "test"):
        parquet.read([Path("items") / f"{split}.parquet"], parquet.ITEMS)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("task", ROWS)
def test_unchanged_rows_work(task, suffix):
    with working_directory() as work:
        (work / f"x{suffix}").write_bytes(WRITERS[suffix](ROWS[task]))
        prepare_items(task, Path(f"x{suffix}"))


@examples(120)
@given(st.sampled_from(sorted(ROWS)), st.sampled_from((".jsonl", ".jsonl", ".csv", ".parquet")), st.data())
def test_rows(task, suffix, data):
    rows = data.draw(changed(ROWS[task]))
    try:
        text = WRITERS[suffix](rows)
    except (ValueError, TypeError, AttributeError, OverflowError, pa.ArrowException):  # this format cannot hold it
        text = data.draw(damaged(WRITERS[suffix](ROWS[task])))
    with working_directory() as work:
        (work / f"x{suffix}").write_bytes(text)
        line_of(lambda: prepare_items(task, Path(f"x{suffix}")), f"x{suffix}", "item ")


@examples(60)
@given(st.sampled_from(sorted(ROWS)), st.sampled_from(sorted(WRITERS)), st.data())
def test_bytes_of_data(task, suffix, data):
    with working_directory() as work:
        (work / f"x{suffix}").write_bytes(data.draw(damaged(WRITERS[suffix](ROWS[task]))))
        line_of(lambda: prepare_items(task, Path(f"x{suffix}")), f"x{suffix}", "item ")


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


NO_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff")]
)
UNREADABLE = {
    "text that is no UTF-8": NO_TEXT,
    "date after the year 9999": pa.array([10**8] * 2, pa.int32()).cast(pa.date32()),
    "time after the year 9999": pa.array([10**15] * 2).cast(pa.timestamp("s")),
    "unknown time zone": pa.array([1] * 2).cast(pa.timestamp("s", "Mars/Phobos")),
    "duration": pa.array([2**62] * 2).cast(pa.duration("s")),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_columns_that_python_cannot_hold(name):
    """Also one that the task does not read: the file and the column are named."""
    with working_directory():
        table = pa.Table.from_pylist(ROWS["gsm8k"][:2]).append_column("mine", UNREADABLE[name])
        pq.write_table(table, "x.parquet")
        line = line_of(lambda: prepare_items("gsm8k", Path("x.parquet")), "x.parquet: the column 'mine' has a value")
        assert line.endswith("mend or remove it")


def test_items_that_are_no_text():
    with working_directory():
        columns = {name: [0, 1] if name == "item_id" else NO_TEXT for name in parquet.ITEMS.names}
        pq.write_table(pa.table(columns, schema=parquet.ITEMS), "x.parquet")
        assert line_of(lambda: parquet.read_items(Path("x.parquet")), "x.parquet is not a complete Parquet file")


def test_laws_without_some_pair():
    with working_directory():
        parquet.write(Path("x.parquet"), {name: [0, 1] for name in parquet.JOINT.names}, parquet.JOINT, {})
        assert line_of(lambda: parquet.read_laws(Path("x.parquet")), "x.parquet has 2 rows, not one for each pair")


RUN = Path("data/runs/mine")


def sealed() -> dict:
    """A run of two files, and its seal."""
    for name in ("x", "timings/base.json"):
        (RUN / name).parent.mkdir(parents=True, exist_ok=True)
        (RUN / name).write_text("{}")
    seal.seal("mine")
    return json.loads((RUN / seal.SEAL).read_text())


@examples(40)
@given(st.data())
def test_seals(data):
    """No name in a seal leads to a file outside the run, and none is made."""
    with working_directory():
        valid = sealed()
        valid["files"]["../../../../escape"] = valid["files"]["x"]
        text = data.draw(changed(valid).map(json_bytes) | damaged(json_bytes(valid)) | VALUES.map(json_bytes))
        (RUN / seal.SEAL).write_bytes(text)
        before = set(Path().rglob("*"))
        line_of(lambda: seal.restore("mine"), "data/runs/mine")
        assert set(Path().rglob("*")) == before
