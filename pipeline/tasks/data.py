"""Reads a data set, from the Hub or from files with the same columns, into the items of a training and a test split.

Every problem stops the run with one line that names the file and line: a missing or empty file, a missing column, a
duplicate id, a row that the task cannot read, a test item that is also in the training split. This is why files are not
read by the `datasets` library: it names no lines of .jsonl files, and turns the Sudoku 0034… of a .csv into a number.
"""

import csv
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.errors import PipelineError
from pipeline.settings.validation import Section
from pipeline.tasks.base import Item

Row = Mapping[str, object]
"""Column in lower case -> value."""

ID_COLUMNS = ("id", "unique_id")


class Data(Section):
    """Where the rows come from: `hub`, the id of a data set, or `path`, a .jsonl, .csv or .parquet file.

    The test split is `test_hub` or `test_path`; without these, the data set's split "test", or the rows of the file
    whose column `split` says "test"; without these, `test_items` rows drawn at random. With `overlap: drop`, training
    rows that are also test items are left out instead of stopping the run.
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
class RowFormat:
    """How a task reads rows: each must hold at least one column, in lower case, of each tuple in `columns`.

    `item` makes the item of a row, or None to leave it out; ValueError says what is wrong with the row. `key` gives
    what identifies an item if there is no column `id`; no test key may occur in the training split.
    """

    columns: Sequence[tuple[str, ...]]
    item: Callable[[Row], Item | None]
    key: Callable[[Item], str] = lambda item: item.prompt


Rows = list[tuple[str, Row]]
Items = list[tuple[str, Item]]
"""Each with its place in the source, e.g. "x.jsonl, line 3", for errors."""


def load_splits(data: Data, seed: int, row_format: RowFormat) -> dict[str, list[Item]]:
    """The items of the splits "train" and "test"."""
    rows = _hub(data.hub, data.config) if data.hub else _by_split(_file(Path(str(data.path))))
    if data.test_hub:
        rows["test"] = _hub(data.test_hub, None).get("test", [])
    elif data.test_path:
        rows["test"] = _file(Path(data.test_path))
    train = _items(rows.get("train", []), row_format, str(data.hub or data.path), repeats=bool(data.hub))
    if "test" in rows:
        test = _items(rows["test"], row_format, str(data.test_hub or data.test_path or data.path), repeats=False)
    else:
        train, test = _draw_test_split(train, data, seed)
    test_keys = {row_format.key(item): where for where, item in test}
    for where, item in train:
        if data.overlap == "stop" and (key := row_format.key(item)) in test_keys:
            both = f"{test_keys[key]} occurs in the training split too, {where}: {key[:80]!r}"
            raise PipelineError(f"{both}; remove one of them, or set task.data.overlap: drop")
    kept = [item for _, item in train if row_format.key(item) not in test_keys]
    return {"train": kept, "test": [item for _, item in test]}


def _by_split(rows: Rows) -> dict[str, Rows]:
    """The rows of each split that the column `split` names, "train" where there is none."""
    splits: dict[str, Rows] = {}
    for where, row in rows:
        split = row.get("split", "train")
        if split not in ("train", "test"):
            raise PipelineError(f"{where}: split must be 'train' or 'test', not {split!r}")
        splits.setdefault(str(split), []).append((where, row))
    return splits


def _items(rows: Rows, row_format: RowFormat, source: str, repeats: bool) -> Items:
    """The items of rows. With `repeats`, of rows that have the same key but no id the first is kept; else they are an
    error.
    """
    items: Items = []
    seen: dict[str, str] = {}
    for where, row in rows:
        for names in row_format.columns:
            if all(row.get(name) is None for name in names):
                raise PipelineError(f"{where}: has no {' or '.join(names)}, but the columns {sorted(row)}")
        try:
            item = row_format.item(row)
        except ValueError as error:
            raise PipelineError(f"{where}: {error}") from error
        if item is None:
            continue
        column = next((name for name in ID_COLUMNS if row.get(name) is not None), "")
        identity = str(row[column]) if column else row_format.key(item)
        if identity not in seen:
            seen[identity] = where
            items.append((where, item))
        elif column or not repeats:
            raise PipelineError(f"{where}: duplicate {column or 'item'} {identity[:80]!r}, first in {seen[identity]}")
    if not items:
        raise PipelineError(f"task.data: {source} has no rows that this task can use")
    return items


def _draw_test_split(items: Items, data: Data, seed: int) -> tuple[Items, Items]:
    """(the other items, `test_items` of them drawn at random), both in their original order."""
    if len(items) <= data.test_items:
        found = f"{data.hub or data.path} has {len(items)} rows and no test split"
        raise PipelineError(f"task.data: {found}: give test_path, or a test_items smaller than {data.test_items}")
    drawn = set(random.Random(seed).sample(range(len(items)), data.test_items))
    rest = [pair for index, pair in enumerate(items) if index not in drawn]
    return rest, [items[index] for index in sorted(drawn)]


def _hub(hub: str, config: str | None) -> dict[str, Rows]:
    """The splits of a data set on the Hub."""
    import datasets  # noqa: PLC0415  (takes seconds to import, and files do not need it)

    try:
        found = datasets.load_dataset(hub, config)
    except Exception as error:  # whatever the network, the Hub or a library under it raises
        problem = f"cannot load '{hub}' ({type(error).__name__}: {str(error)[:160]})"
        advice = "download it elsewhere and give its file as task.data.path"
        raise PipelineError(f"task.data.hub: {problem}: {advice}") from error
    return {split: [(f"{hub}, {split} row {n}", _lower(row)) for n, row in enumerate(found[split])] for split in found}


def _file(path: Path) -> Rows:
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise PipelineError(f"task.data: {path} must be one of {', '.join(readers)}")
    if not path.is_file():
        raise PipelineError(f"task.data: {path} is missing")
    return [(f"{path}, {where}", _lower(row)) for where, row in readers[path.suffix](path)]


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise PipelineError(f"{path}, line {number}: is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise PipelineError(f"{path}, line {number}: is not a JSON object")
            yield f"line {number}", row


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines, strict=True)
            for row in rows:
                if None in row:
                    raise PipelineError(f"{path}, line {rows.line_num}: has more fields than the header")
                yield f"line {rows.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} is not a CSV file: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa  # noqa: PLC0415  (not needed for the other formats)
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        rows = pq.read_table(path, partitioning=None).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path} is not a complete Parquet file: {str(error)[:120]}") from error
    yield from ((f"row {number}", row) for number, row in enumerate(rows))


def _lower(row: Row) -> Row:
    return {str(name).strip().lower(): value for name, value in row.items()}
