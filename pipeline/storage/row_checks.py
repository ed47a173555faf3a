"""What `parquet.read` checks in every row: values that are missing or impossible, groups that do not fit together."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import PipelineError

PROMPT = "prompt_tokens"
"""The one column of lists that are not of answer tokens."""
IDS = (PROMPT, "start", "tokens")
"""The columns of token ids."""
LOG_PROB = ("log_prob", "base_log_prob")
ROUNDING = 1e-4
"""How much a log-probability in fp32 may exceed 0."""
SHARED = ("prompt_id", PROMPT, "start")
"""What the completions of one state have in common."""


def check_column(
    path: Path, name: str, column: pa.Array, vocabulary: Collection[int] | None, limits: Mapping[str, range]
) -> None:
    """PipelineError for the first row with a value that is missing or impossible; see `parquet.read`."""
    rows, last = np.arange(len(column)), 0
    if pa.types.is_map(column.type):
        _check(
            path, rows, name, column, pa.array(map(_is_numbers, column.to_pylist())), "a finite number for each name"
        )
        return
    if pa.types.is_list(column.type):
        _check(path, rows, name, column, column.is_valid(), "a list")
        last = pc.max(pc.list_value_length(column)).as_py() - 1
        rows, column = pc.list_parent_indices(column), column.flatten()
    valid, wanted = column.is_valid(), "a value"
    if pa.types.is_floating(column.type):
        valid, wanted = pc.is_finite(column).fill_null(False), "a finite number"
    elif name in IDS and vocabulary is not None:
        valid, wanted = pc.is_in(column, pa.array(vocabulary, pa.int32())), "a token id of the model"
    elif name == "unmask_step" or name in limits:
        allowed = limits.get(name, range(-1, last + 1))
        valid = pc.and_(pc.greater_equal(column, allowed.start), pc.less(column, allowed.stop)).fill_null(False)
        wanted = f"one of {allowed.start} … {allowed[-1]}" if len(allowed) > 1 else str(allowed.start)
    _check(path, rows, name, column, valid, wanted)
    if name in LOG_PROB:
        _check(path, rows, name, column, pc.less_equal(column, ROUNDING), "the logarithm of a probability")


def _is_numbers(entries: list[tuple[str, float | None]] | None) -> bool:
    """Whether a map has some entries, with a finite number for each of different names."""
    found = dict(entries or ())
    return 0 < len(found) == len(entries or ()) and all(x is not None and math.isfinite(x) for x in found.values())


def check_lengths(path: Path, table: pa.Table) -> None:
    """PipelineError unless all columns of answer tokens have, in each row, lists of one length; none is empty."""
    names = [name for name in table.column_names if pa.types.is_list(table.schema.field(name).type) and name != PROMPT]
    lengths = {name: np.asarray(pc.list_value_length(table.column(name))) for name in names}
    for name, found in lengths.items():
        wanted = lengths[names[0]]
        for row in np.flatnonzero((found != wanted) | (found == 0))[:1]:
            other = f"{names[0]} {wanted[row]}" if found[row] else "must have some"
            raise PipelineError(f"{path}, row {row}: {name} has {found[row]} values, but {other}")


def _check(path: Path, rows: np.ndarray | pa.Array, name: str, values: pa.Array, valid: pa.Array, wanted: str) -> None:
    for place in np.flatnonzero(~np.asarray(valid))[:1]:
        raise PipelineError(f"{path}, row {rows[place]}: {name} is {values[place]}, not {wanted}")


def check_groups(files: Sequence[tuple[Path, int]], table: pa.Table, completions: int, *, in_order: bool) -> None:
    """PipelineError unless each state of a round has its K completions, each once, of one prompt and start.

    Args:
        files: the paths that the table was read from, with their numbers of rows.
        in_order: whether the completions of a state must also follow each other, sample 0 first.
    """
    counts = table.group_by(["round", "state_id"]).aggregate([([], "count_all")])
    for row in counts.filter(pc.field("count_all") != completions).slice(0, 1).to_pylist():
        raise PipelineError(
            f"{', '.join(str(path) for path, _ in files)}: state {row['state_id']} of round {row['round']} has"
            f" {row['count_all']} completions, not {completions} (rollout.completions): delete it and run again"
        )
    round_, state, sample = (table.column(name).to_numpy() for name in ("round", "state_id", "sample_id"))
    order = np.lexsort((sample, state, round_))
    twice = sample[order] != np.tile(np.arange(completions), len(order) // completions)
    for row in order[twice][:1]:
        which = f"completions of state {state[row]} of round {round_[row]} are not the samples 0 … {completions - 1}"
        raise PipelineError(f"{_place(files, row)}: sample_id is {sample[row]}: the {which}, each once")
    if in_order and (wrong := np.flatnonzero(order != np.arange(len(order)))).size:
        raise PipelineError(f"{_place(files, wrong[0])}: the rows are not in the order of round, state and sample")
    first = np.repeat(order[::completions], completions)
    for name in SHARED:
        for place in _differing(table.column(name).combine_chunks(), order, first):
            group = f"state {state[place]} of round {round_[place]}"
            raise PipelineError(f"{_place(files, place)}: {name} differs from that of the other rows of {group}")


def _differing(column: pa.Array, rows: np.ndarray, others: np.ndarray) -> Iterator[int]:
    """The rows whose value is not that of the other row at the same place."""
    mine, theirs = column.take(rows), column.take(others)
    if not pa.types.is_list(column.type):
        yield from rows[~np.asarray(pc.equal(mine, theirs))]
        return
    same_length = np.asarray(pc.equal(pc.list_value_length(mine), pc.list_value_length(theirs)))
    yield from rows[~same_length]
    if same_length.all():
        places = np.asarray(pc.list_parent_indices(mine))
        yield from rows[places[~np.asarray(pc.equal(mine.flatten(), theirs.flatten()))]]


def _place(files: Sequence[tuple[Path, int]], row: int) -> str:
    """The file and row of a row of all files together."""
    for path, rows in files:
        if row < rows:
            return f"{path}, row {row}"
        row -= rows
    raise IndexError(row)
