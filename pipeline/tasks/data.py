"""Rows of a data set, from the Hub or from files of the same columns, as the items of a training and a test split.

A file is JSON lines, CSV or Parquet. Whatever is wrong with it stops with one line: no file, no rows, a missing column,
a duplicate id, a row that the task cannot read, a test item that occurs in the training split.
"""

import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.errors import PipelineError
from pipeline.settings.validation import Section
from pipeline.tasks.base import Item

Values = Mapping[str, Any]
IDS = ("id", "unique_id")


class Data(Section):
    """Where the rows come from: `hub`, the id of a data set, or `path`, a .jsonl, .csv or .parquet file.

    The test split is `test_hub` or `test_path`, else the data set's split "test", or the rows of the file whose column
    `split` says so; else `test_items` rows are held out at random. `overlap: drop` leaves out the training rows that
    are test items too, which else stop the run.
    """

    hub: str | None = None
    config: str | None = None
    test_hub: str | None = None
    path: str | None = None
    test_path: str | None = None
    test_items: int = Field(default=512, ge=1)
    overlap: Literal["stop", "drop"] = "stop"

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        if (self.hub is None) == (self.path is None):
            raise ValueError("needs either hub, the id of a data set, or path, a .jsonl, .csv or .parquet file")
        if self.test_hub and self.test_path:
            raise ValueError("test_hub and test_path exclude each other")
        return self


@dataclass(frozen=True)
class Reading:
    """How a task reads rows.

    Attributes:
        columns: what a row must hold: of each tuple, one column. Names are in lower case.
        item: row -> its item, None for a row to leave out. ValueError says what is wrong with the row.
        key: item -> what identifies it, where there is no column `id`; no test item's may occur in the training split.
    """

    columns: Sequence[tuple[str, ...]]
    item: Callable[[Values], Item | None]
    key: Callable[[Item], str] = lambda item: item.prompt


def splits(data: Data, seed: int, reading: Reading) -> dict[str, list[Item]]:
    """The items of the splits "train" and "test"."""
    train, test = _sources(data)
    items = {
        "train": _items(train, reading, str(data.hub or data.path), repeated=bool(data.hub)),
        "test": [] if test is None else _items(test, reading, str(data.test_hub or data.test_path or data.path), False),
    }
    if test is None:
        items = _held_out(items["train"], data, seed)
    if data.overlap == "drop":
        held_out = {reading.key(item) for _, item in items["test"]}
        items["train"] = [pair for pair in items["train"] if reading.key(pair[1]) not in held_out]
    known = {reading.key(item): where for where, item in items["train"]}
    for where, item in items["test"]:
        if reading.key(item) in known:
            raise PipelineError(
                f"{where} occurs in the training split too, {known[reading.key(item)]}: {reading.key(item)[:80]!r}; "
                f"remove one of them, or set task.data.overlap: drop"
            )
    return {split: [item for _, item in pairs] for split, pairs in items.items()}


def _sources(data: Data) -> tuple[Iterable[tuple[str, Values]], Iterable[tuple[str, Values]] | None]:
    """The rows to train on and to test on, each with where it stands; None where the test rows are to be held out."""
    if data.hub:
        found = _hub(data.hub, data.config)
        train, test = found.get("train", []), found.get("test")
    else:
        rows = list(_file(Path(str(data.path))))
        for where, row in rows:
            if row.get("split", "train") not in ("train", "test"):
                raise PipelineError(f"{where}: split must be 'train' or 'test', not {row['split']!r}")
        train = [pair for pair in rows if pair[1].get("split", "train") == "train"]
        test = [pair for pair in rows if pair[1].get("split") == "test"] or None
    if data.test_hub:
        test = _hub(data.test_hub, None).get("test", [])
    elif data.test_path:
        test = list(_file(Path(data.test_path)))
    return train, test


def _items(rows: Iterable[tuple[str, Values]], reading: Reading, source: str, repeated: bool) -> list[tuple[str, Item]]:
    """The items of rows. `repeated`: whether rows of the same key are one item, rather than a mistake."""
    items: list[tuple[str, Item]] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        for names in reading.columns:
            if all(row.get(name) is None for name in names):
                raise PipelineError(f"{where}: has no {' or '.join(names)}, but the columns {sorted(row)}")
        try:
            item = reading.item(row)
        except ValueError as error:
            raise PipelineError(f"{where}: {error}") from error
        if item is None:
            continue
        name = next((name for name in IDS if row.get(name) is not None), "")
        identity = str(row[name]) if name else reading.key(item)
        if identity not in seen:
            seen[identity] = where
            items.append((where, item))
        elif name or not repeated:
            raise PipelineError(f"{where}: duplicate {name or 'item'} {identity[:80]!r}, first in {seen[identity]}")
    if not items:
        raise PipelineError(f"task.data: {source} has no rows that this task can use")
    return items


def _held_out(items: list[tuple[str, Item]], data: Data, seed: int) -> dict[str, list[tuple[str, Item]]]:
    """`test_items` of the items at random, in their order, and the rest."""
    if len(items) <= data.test_items:
        raise PipelineError(
            f"task.data: {data.hub or data.path} has {len(items)} rows and no test split: give test_path, or a "
            f"test_items smaller than {data.test_items}"
        )
    chosen = set(random.Random(seed).sample(range(len(items)), data.test_items))
    split = {"train": [index for index in range(len(items)) if index not in chosen], "test": sorted(chosen)}
    return {name: [items[index] for index in indices] for name, indices in split.items()}


def _hub(hub: str, config: str | None) -> dict[str, list[tuple[str, Values]]]:
    """The splits of a data set of the Hub."""
    import datasets  # noqa: PLC0415  (seconds to import, and not needed for files)

    try:
        found = datasets.load_dataset(hub, config)
    except Exception as error:  # whatever the network, the Hub or a library under it raises
        reason = f"{type(error).__name__}: {str(error)[:160]}"
        raise PipelineError(
            f"task.data.hub: cannot load '{hub}' ({reason}): download it elsewhere and give its file as task.data.path"
        ) from error
    return {split: [(f"{hub}, {split} row {n}", _lower(row)) for n, row in enumerate(found[split])] for split in found}


def _file(path: Path) -> Iterator[tuple[str, Values]]:
    """The rows of a file, each with where it stands."""
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise PipelineError(f"task.data: {path} must be one of {', '.join(readers)}")
    if not path.is_file():
        raise PipelineError(f"task.data: {path} is missing")
    empty = True
    for where, row in readers[path.suffix](path):
        empty = False
        yield f"{path}, {where}", _lower(row)
    if empty:
        raise PipelineError(f"task.data: {path} has no rows")


def _jsonl(path: Path) -> Iterator[tuple[str, Values]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise PipelineError(f"{path}, line {number}: is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise PipelineError(f"{path}, line {number}: is not a JSON object")
            yield f"line {number}", row


def _csv(path: Path) -> Iterator[tuple[str, Values]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines, strict=True)
            for row in rows:
                if None in row:
                    raise PipelineError(f"{path}, line {rows.line_num}: has more fields than the header")
                yield f"line {rows.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} is not a CSV file: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[str, Values]]:
    import pyarrow as pa  # noqa: PLC0415  (not needed for the other formats)
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path} is not a complete Parquet file: {str(error)[:120]}") from error
    for number, row in enumerate(rows):
        yield f"row {number}", row


def _lower(row: Values) -> Values:
    return {str(name).strip().lower(): value for name, value in row.items()}
