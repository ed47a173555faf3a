"""Reads a data set, from the Hub or from files with the same columns, into the items of a training and a test split.

Every problem stops the run with one line that names the file and line: a missing or empty file, a missing column, a
duplicate id, a row that the task cannot read, a test item that is repeated or also in the training split. Published
training sets have rows without an answer and rows that repeat others: these are left out and counted in the log.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.errors import PipelineError
from pipeline.settings.validation import Section
from pipeline.tasks.base import Item
from pipeline.tasks.data_files import Row, Rows, read_file, read_hub
from pipeline.tasks.values import NoAnswerError, missing_column

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

    `item` makes the item of a row, or None to leave it out; ValueError says what is wrong with the row, `NoAnswerError`
    that it cannot be used. `key` gives what identifies an item if there is no column `id`; no test key may occur in the
    training split.
    """

    columns: Sequence[tuple[str, ...]]
    item: Callable[[Row], Item | None]
    key: Callable[[Item], str] = lambda item: item.prompt


Items = list[tuple[str, Item]]
"""Each with its place in the source, e.g. "x.jsonl, line 3", for errors."""


def load_splits(data: Data, seed: int, row_format: RowFormat) -> dict[str, list[Item]]:
    """The items of the splits "train" and "test"."""
    rows = read_hub(data.hub, data.config) if data.hub else _by_split(read_file(Path(str(data.path))))
    if data.test_hub:
        rows["test"] = read_hub(data.test_hub, None).get("test", [])
    elif data.test_path:
        rows["test"] = read_file(Path(data.test_path))
    train = _items(rows.get("train", []), row_format, str(data.hub or data.path), training=True)
    if "test" in rows:
        test = _items(rows["test"], row_format, str(data.test_hub or data.test_path or data.path), training=False)
    else:
        train, test = _draw_test_split(train, data, seed)
    test_keys = {row_format.key(item): where for where, item in test}
    for where, item in train:
        if data.overlap == "stop" and (key := row_format.key(item)) in test_keys:
            both = f"{test_keys[key]} occurs in the training split too, {where}: {key[:80]!r}"
            raise PipelineError(f"{both}; remove one of them, or set task.data.overlap: drop")
    _report([("test items, too", where) for where, item in train if row_format.key(item) in test_keys])
    kept = [item for _, item in train if row_format.key(item) not in test_keys]
    return {"train": kept, "test": [item for _, item in test]}


def held_out_rows(data: Data) -> int | None:
    """How many test items the files hold or leave over; None for a data set on the Hub."""
    if data.path is None or data.test_hub:
        return None
    if data.test_path:
        return len(read_file(Path(data.test_path)))
    return len(_by_split(read_file(Path(data.path))).get("test", ())) or data.test_items


def _by_split(rows: Rows) -> dict[str, Rows]:
    """The rows of each split that the column `split` names, "train" where there is none."""
    splits: dict[str, Rows] = {}
    for where, row in rows:
        split = row.get("split", "train")
        if split not in ("train", "test"):
            raise PipelineError(f"{where}: split must be 'train' or 'test', not {split!r}")
        splits.setdefault(str(split), []).append((where, row))
    return splits


def _items(rows: Rows, row_format: RowFormat, source: str, *, training: bool) -> Items:
    """The items of rows. Training rows without an answer are left out, and of those that have the same key, but no id,
    the first is kept; test rows of both kinds are errors.
    """
    items: Items = []
    seen: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    for where, row in rows:
        for names in row_format.columns:
            if not any(name in row for name in names):
                raise PipelineError(f"{where}: {missing_column(names, row)}")
        try:
            item = row_format.item(row)
        except ValueError as error:
            if not (training and isinstance(error, NoAnswerError)):
                raise PipelineError(f"{where}: {error}") from error
            left_out.append(("without an answer", where))
            continue
        if item is None:
            left_out.append(("not for this task", where))
            continue
        column = next((name for name in ID_COLUMNS if row.get(name) is not None), "")
        identity = str(row[column]) if column else row_format.key(item)
        if identity not in seen:
            seen[identity] = where
            items.append((where, replace(item, source=where)))
        elif training and not column:
            left_out.append(("repeated", where))
        else:
            raise PipelineError(f"{where}: duplicate {column or 'item'} {identity[:80]!r}, first in {seen[identity]}")
    _report(left_out)
    if not items:
        reasons = " or ".join(sorted({reason for reason, _ in left_out}))
        why = f": all {len(left_out)} are {reasons}" if left_out else ""
        raise PipelineError(f"task.data: {source} has no rows that this task can use{why}")
    return items


def _report(left_out: Sequence[tuple[str, str]]) -> None:
    """Log how many rows are left out for each reason, and the first of them."""
    for reason, count in Counter(reason for reason, _ in left_out).items():
        first = next(where for other, where in left_out if other == reason)
        print(f"{count} {'row' if count == 1 else 'rows'} left out: {reason}, first {first}")


def _draw_test_split(items: Items, data: Data, seed: int) -> tuple[Items, Items]:
    """(the other items, `test_items` of them drawn at random), both in their original order."""
    if len(items) <= data.test_items:
        found = f"{data.hub or data.path} has {len(items)} rows and no test split"
        raise PipelineError(f"task.data: {found}: give test_path, or a test_items smaller than {data.test_items}")
    drawn = set(random.Random(seed).sample(range(len(items)), data.test_items))
    rest = [pair for index, pair in enumerate(items) if index not in drawn]
    return rest, [items[index] for index in sorted(drawn)]
