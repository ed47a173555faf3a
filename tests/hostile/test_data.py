"""Data files of users, and seals of runs. The Parquet files between stages are in test_stage_files.py."""

import argparse
import csv
import io
import json
from pathlib import Path

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
from tests.hostile.harness import NO_TEXT, VALUES, changed, damaged, examples, json_bytes, line_of, working_directory

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
