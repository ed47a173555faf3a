"""Reads and writes the Parquet files that stages exchange.

A trajectory is stored as token ids and log-probabilities of the drawn tokens, never as anything of the vocabulary's
size. The metadata of each file hold the schema's name and version, the git revision and the settings of the stage.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import PipelineError
from pipeline.storage.atomic_files import replacing
from pipeline.storage.row_checks import check_column, check_groups, check_lengths

VERSION = 2
ROW_GROUP = 4096
Column: TypeAlias = "np.ndarray | list[object] | list[str] | list[int] | pa.Array"
"""What `write` accepts as a column."""
TOKENS = pa.list_(pa.int32())


def _schema(name: str, *columns: tuple[str, pa.DataType] | pa.Field) -> pa.Schema:
    return pa.schema(columns, metadata={"schema": f"{name}/{VERSION}"})


ITEMS = _schema(
    "items",
    ("item_id", pa.int64()),
    ("prompt", pa.string()),
    ("reference", pa.string()),
    ("group", pa.string()),
    ("start", pa.string()),  # the answer with holes, of tasks whose answers start partly revealed
    ("source", pa.string()),  # the item's place in a data set, for errors; "" if it is not known
)
ROLLOUTS = _schema(
    "rollouts",
    ("round", pa.int32()),
    ("prompt_id", pa.int64()),
    ("state_id", pa.int64()),  # the completions of one (round, state_id) form a group
    ("sample_id", pa.int32()),
    ("prompt_tokens", TOKENS),
    ("start", TOKENS),  # the state x that sampling started from
    ("tokens", TOKENS),  # x_1
    ("unmask_step", TOKENS),  # -1 where `start` is not masked
    ("log_prob", pa.list_(pa.float32())),  # log p^u of each token at the step that revealed it
    ("reward", pa.float64()),
)
REFERENCES = _schema(
    "references",
    ("state_id", pa.int64()),
    ("sample_id", pa.int32()),
    ("base_log_prob", pa.list_(pa.float32())),  # log p^base of each token at the state in which it was revealed
)
TARGETS = _schema(
    "targets",
    *ROLLOUTS,
    ("log_ratio", pa.float64()),  # Σ log p^base - log p^u along the path; 0 where the method does not use it
    ("step", pa.float64()),  # how far the weights go from the policy that drew the row, in the method's own unit
    ("spent", pa.float64()),  # the sum of all rounds' steps, for a method that bounds it; else 0
    ("log_weight", pa.float64()),
    ("weight", pa.float64()),  # W, mean 1 in each group where it is an importance weight
)
ANSWERS = _schema(
    "answers",
    ("split", pa.string()),
    ("sampler", pa.string()),
    ("length", pa.int32()),
    ("item_id", pa.int64()),
    ("answer", pa.string()),
    ("metrics", pa.map_(pa.string(), pa.float64())),
    ("hardware", pa.string()),  # the GPU or processor that decoded the row
)
JOINT = _schema(
    "joint",
    ("x1", pa.int32()),
    ("x2", pa.int32()),
    ("base", pa.float64()),
    ("target", pa.float64()),  # p* ∝ base · e^{r/α}
    ("model", pa.float64()),  # p^u of the last round's policy
)
ADDED = {"source": ""}
"""Columns that files of earlier versions lack, with what they would hold."""


def write(path: Path, columns: Mapping[str, Column], schema: pa.Schema, provenance: Mapping[str, str]) -> None:
    """Write columns: lists or arrays; for a column of lists also a [rows, length] matrix."""
    table = pa.table({name: _lists(columns[name]) for name in schema.names}, schema=schema)
    table = table.replace_schema_metadata({**schema.metadata, "provenance": json.dumps(dict(provenance))})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROW_GROUP, compression="zstd")


def provenance_of(path: Path) -> dict[str, Any]:
    """How a file was made: version, git revision, and the settings of its stage.

    Raises:
        PipelineError: if the file is damaged, or not one of `write`.
    """
    try:
        found: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"provenance"])
        return {**found, "settings": json.loads(found["settings"])}
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise PipelineError(f"{path} does not say how it was made ({error}): delete it and run again") from error


def _lists(values: Column) -> Column:
    """A matrix as a column of lists; other columns unchanged."""
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        return values
    rows, length = values.shape
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * length, values.ravel())


def joined(parts: Sequence[np.ndarray]) -> Column:
    """The column of several batches, whose lists may differ in length, in one piece; [] if there are none."""
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
    limits: Mapping[str, range] | None = None,
) -> pa.Table:
    """The rows of all files, in the order given.

    Args:
        completions: K, how many rows each state must have, in all files together: the samples 0 … K - 1 of one prompt
            and start. In a file of targets they must follow each other.
        vocabulary: the known token ids; None skips the check.
        limits: integer column -> the values that it may have, such as {"round": range(3, 4)}.

    Raises:
        PipelineError: for a file that is missing, truncated, empty or of another schema. Names file and row if a value
            is missing or not finite, a list of answer tokens has another length than the row's others, a token id is
            unknown, an `unmask_step` is too big, a log-probability is positive, or the rows of a state do not belong
            together.
    """
    tables = []
    for path in paths:
        table = _read_one(path, schema)
        if len(table) == 0 and not may_be_empty:
            raise PipelineError(f"{path} has no rows")
        for name in schema.names if len(table) else ():
            check_column(path, name, table.column(name).combine_chunks(), vocabulary, limits or {})
        if len(table):
            check_lengths(path, table)
        tables.append(table)
    table = pa.concat_tables(tables)
    if completions:
        files = list(zip(paths, map(len, tables), strict=True))
        check_groups(files, table, completions, in_order=schema.equals(TARGETS))
    return table


def read_items(path: Path, *, may_be_empty: bool = False) -> list[dict[str, Any]]:
    """The items of a split in the order of their ids, as arguments of `tasks.base.Item`."""
    return list(read([path], ITEMS, may_be_empty=may_be_empty).drop_columns("item_id").to_pylist())


def read_targets(path: Path, last: int, completions: int, vocabulary: Collection[int]) -> pa.Table:
    """The targets that the round `last` trained on: of this round and of rounds before it."""
    rounds = {"round": range(1, last + 1)}
    table = read([path], TARGETS, completions=completions, vocabulary=vocabulary, limits=rounds)
    if table.column("round")[-1].as_py() != last:
        raise PipelineError(f"{path} has no row of round {last}: delete it and run again")
    return table


def lengths(table: pa.Table, name: str) -> list[int]:
    """The lengths of the lists of a column."""
    return list(pc.list_value_length(table.column(name)).to_pylist())


def matrix(
    table: pa.Table, name: str, fill: int | None = None, *, side: Literal["left", "right"] = "left"
) -> np.ndarray:
    """A list column as [rows, length]; `fill` pads shorter lists on that side.

    Raises:
        PipelineError: if the lists differ in length and there is no `fill`.
    """
    values: np.ndarray = table.column(name).combine_chunks().flatten().to_numpy()
    found = np.array(lengths(table, name))
    longest = int(found.max(initial=0))
    if fill is None and (found != longest).any():
        raise PipelineError(f"column '{name}' holds lists of different lengths: {sorted(set(found.tolist()))}")
    result = np.full((len(found), longest), fill or 0, dtype=values.dtype)
    place = np.arange(longest)
    result[place >= longest - found[:, None] if side == "left" else place < found[:, None]] = values
    return result


def read_laws(path: Path) -> dict[str, np.ndarray]:
    """The distributions in a file of schema `JOINT`, [M, M] each."""
    table = read([path], JOINT)
    if (size := math.isqrt(len(table))) ** 2 != len(table):
        raise PipelineError(f"{path} has {len(table)} rows, not one for each pair of values: delete it and run again")
    return {name: table.column(name).to_numpy().reshape(size, size) for name in ("target", "base", "model")}


def _read_one(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
        table.validate(full=True)  # texts that are no UTF-8
    except FileNotFoundError:
        raise PipelineError(f"{path} is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(
            f"{path} is not a complete Parquet file ({str(error)[:120]}): delete it and run again"
        ) from error
    for name, value in ADDED.items():
        if name in schema.names and name not in table.column_names:
            table = table.append_column(schema.field(name), pa.repeat(value, len(table)))
    if not table.schema.equals(schema):
        name = schema.metadata[b"schema"].decode()
        raise PipelineError(f"{path} does not have the columns of '{name}': delete it and run again")
    return table
