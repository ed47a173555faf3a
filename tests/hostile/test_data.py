"""Data files of users, Parquet files between stages, and seals of runs."""

import argparse
import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
