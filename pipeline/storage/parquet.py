"""Rows that cross stages, as Parquet: the only reader and writer of it.

A trajectory is stored as token ids, never as anything vocabulary-sized. Every file carries the schema's
name and version and the provenance of its rows (git revision, settings) in its metadata.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import PipelineError
from pipeline.storage.atomic_files import replacing

VERSION = 2
ROW_GROUP = 4096
Column: TypeAlias = "np.ndarray | list[object] | list[str] | list[int] | pa.Array"
"""What a column of a file may be written from."""
TOKENS = pa.list_(pa.int32())
RAGGED = "prompt_tokens"
"""The column of lists that may differ in length."""
IDS = (RAGGED, "start", "tokens")
"""The columns of token ids."""

ITEMS = pa.schema(
    [("item_id", pa.int64()), ("prompt", pa.string()), ("reference", pa.string()), ("group", pa.string())],
    metadata={"schema": f"items/{VERSION}"},
)
ROLLOUTS = pa.schema(
    [
        ("round", pa.int32()),
        ("prompt_id", pa.int64()),
        ("state_id", pa.int64()),  # completions with the same (round, state_id) are one group
        ("sample_id", pa.int32()),
        ("prompt_tokens", TOKENS),
        ("start", TOKENS),  # the state x that the completion starts from
        ("tokens", TOKENS),  # x_1
        ("unmask_step", TOKENS),  # -1 where `start` shows the position
        ("log_prob", pa.list_(pa.float32())),  # log p^u of each token when it was revealed
        ("reward", pa.float64()),
    ],
    metadata={"schema": f"rollouts/{VERSION}"},
)
REFERENCES = pa.schema(
    [
        ("state_id", pa.int64()),
        ("sample_id", pa.int32()),
        ("base_log_prob", pa.list_(pa.float32())),  # log p^base of each token at the state in which it was revealed
    ],
    metadata={"schema": f"references/{VERSION}"},
)
TARGETS = pa.schema(
    [
        *ROLLOUTS,
        ("log_ratio", pa.float64()),  # Σ log p^base - log p^u along the path; 0 where the method does not use it
        (
            "step",
            pa.float64(),
        ),  # how far these weights go from the policy that drew the row; the method says in what unit
        ("spent", pa.float64()),  # the sum of all rounds' steps, for a method that bounds it; else 0
        ("log_weight", pa.float64()),
        ("weight", pa.float64()),  # W, mean 1 in each group where it is an importance weight
    ],
    metadata={"schema": f"targets/{VERSION}"},
)
JOINT = pa.schema(
    [
        ("x1", pa.int32()),
        ("x2", pa.int32()),
        ("base", pa.float64()),
        ("target", pa.float64()),  # p* ∝ base · e^{r/α}
        ("model", pa.float64()),  # p^u of the last round's policy
    ],
    metadata={"schema": f"joint/{VERSION}"},
)


def write(path: Path, columns: Mapping[str, Column], schema: pa.Schema, provenance: Mapping[str, str]) -> None:
    """Columns (lists, arrays, or [rows, length] matrices for lists) to a file whose row groups stream."""
    table = pa.table({name: _lists(columns[name]) for name in schema.names}, schema=schema)
    table = table.replace_schema_metadata({**schema.metadata, "provenance": json.dumps(dict(provenance))})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROW_GROUP, compression="zstd")


def _lists(values: Column) -> Column:
    """A matrix as a column of lists; anything else as it is."""
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        return values
    rows, length = values.shape
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * length, values.ravel())


def joined(parts: Sequence[np.ndarray]) -> Column:
    """A column in one piece from that of several batches, whose lists may differ in length; [] from none."""
    if not parts:
        return []
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return pa.concat_arrays([_lists(part) for part in parts])


def read(
    paths: Sequence[Path],
    schema: pa.Schema,
    *,
    may_be_empty: bool = False,
    completions: int | None = None,
    vocabulary: Collection[int] | None = None,
) -> pa.Table:
    """The rows of all files, in the order given.

    Args:
        completions: how many rows each state must have, whichever of the files they are in.
        vocabulary: the token ids that there are.

    Raises:
        PipelineError: for a file that is missing, truncated, empty, of another schema, or that holds a number
            which is not finite, nothing, a list of another length, a token that there is not, or a step beyond the
            last; it names the file and the row.
    """
    tables = [_read_one(Path(path), schema) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if vocabulary is not None:
            _check_tokens(path, table, np.fromiter(vocabulary, np.int32))
        if len(table) == 0 and not may_be_empty:
            raise PipelineError(f"{path} has no rows")
    table = pa.concat_tables(tables)
    if completions:
        _check_states(paths, table, completions)
    return table


def lengths(table: pa.Table, name: str) -> list[int]:
    """The length of each list of a column."""
    found: list[int] = pc.list_value_length(table.column(name)).to_pylist()
    return found


def matrix(table: pa.Table, name: str, fill: int | None = None) -> np.ndarray:
    """A list column as [rows, length].

    Args:
        fill: what stands left of the lists that are shorter than the longest.

    Raises:
        PipelineError: if the lists differ in length and there is no `fill`.
    """
    column = table.column(name).combine_chunks()
    found = np.array(lengths(table, name))
    values: np.ndarray = column.flatten().to_numpy()
    if len(set(found.tolist())) == 1:
        return values.reshape(len(column), -1).copy()
    if fill is None:
        raise PipelineError(f"column '{name}' holds lists of different lengths: {sorted(set(found.tolist()))}")
    longest = int(found.max(initial=0))
    result = np.full((len(column), longest), fill, dtype=values.dtype)
    result[np.arange(longest) >= longest - found[:, None]] = values
    return result


def read_laws(path: Path) -> dict[str, np.ndarray]:
    """The laws of `JOINT`, [M, M] each."""
    table = read([path], JOINT)
    size = math.isqrt(len(table))
    return {name: table.column(name).to_numpy().reshape(size, size) for name in ("target", "base", "model")}


def _read_one(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise PipelineError(f"{path} is missing") from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise PipelineError(f"{path} is not a complete Parquet file ({reason}): delete it and run again") from error
    if not table.schema.equals(schema):
        found = (table.schema.metadata or {}).get(b"schema", b"unknown").decode()
        wanted = schema.metadata[b"schema"].decode()
        unlike = f"the schema '{found}', not" if found != wanted else "other columns than the schema"
        raise PipelineError(f"{path} has {unlike} '{wanted}': delete it and run again")
    for name in schema.names:
        _check_column(path, name, table.column(name).combine_chunks())
    return table


def _check_column(path: Path, name: str, column: pa.Array) -> None:
    values, length = column, 1
    _refuse(path, column.is_null(), lambda row: f"{name} is missing")
    if pa.types.is_list(column.type) and len(column):
        lengths = pc.list_value_length(column).to_numpy()
        values, length = column.flatten(), int(lengths[0])
        if name != RAGGED:
            _refuse(path, lengths != length, lambda row: f"{name} has {lengths[row]} entries, not {length} like row 0")
        row = np.repeat(np.arange(len(column)), lengths)
        _refuse(path, np.bincount(row[np.asarray(values.is_null())]), lambda row: f"{name} misses an entry")
    if pa.types.is_floating(values.type):
        infinite = ~np.isfinite(values.to_numpy(zero_copy_only=False).reshape(len(column), length))
        _refuse(path, infinite.any(axis=1), lambda row: f"{name} {column[row]} is not a finite number")


def _check_tokens(path: Path, table: pa.Table, vocabulary: np.ndarray) -> None:
    for name in IDS:
        _refuse_entries(path, table, name, lambda ids: ~np.isin(ids, vocabulary), "not a token of the model")
    last = lengths(table, "unmask_step")[0] - 1 if len(table) else 0
    _refuse_entries(path, table, "unmask_step", lambda step: (step < -1) | (step > last), f"not one of -1 … {last}")


def _refuse_entries(
    path: Path, table: pa.Table, name: str, wrong: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    """PipelineError for the first entry of a column of lists that is wrong."""
    values = table.column(name).combine_chunks().flatten().to_numpy()
    row = np.repeat(np.arange(len(table)), lengths(table, name))
    for place in np.flatnonzero(wrong(values))[:1]:
        raise PipelineError(f"{path}, row {row[place]}: {name} has {values[place]}, {reason}")


def _check_states(paths: Sequence[Path], table: pa.Table, completions: int) -> None:
    counts = table.group_by(["round", "state_id"]).aggregate([([], "count_all")])
    for row in counts.filter(pc.field("count_all") != completions).slice(0, 1).to_pylist():
        raise PipelineError(
            f"{', '.join(map(str, paths))}: state {row['state_id']} of round {row['round']} has {row['count_all']}"
            f" completions, not {completions} (rollout.completions): delete it and run again"
        )


def _refuse(path: Path, wrong: Any, reason: Callable[[int], str]) -> None:
    """PipelineError for the first row that is wrong."""
    for row in np.flatnonzero(np.asarray(wrong))[:1].tolist():
        raise PipelineError(f"{path}, row {row}: {reason(row)}")
