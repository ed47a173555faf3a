"""The rows of a data set on the Hub, or of a .jsonl, .csv, .parquet or .txt file, each with its place for errors.

Files are not read by the `datasets` library: it names no lines of .jsonl files, and turns the Sudoku 0034… of a .csv
into a number.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.errors import PipelineError

Row = Mapping[str, object]
"""Column in lower case -> value."""
Rows = list[tuple[str, Row]]
"""Each with its place in the source, e.g. "x.jsonl, line 3"."""


def read_hub(hub: str, config: str | None) -> dict[str, Rows]:
    """The splits of a data set on the Hub."""
    import datasets  # noqa: PLC0415  (takes seconds to import, and files do not need it)

    try:
        found = datasets.load_dataset(hub, config)
    except Exception as error:  # whatever the network, the Hub or a library under it raises
        problem = f"cannot load '{hub}' ({type(error).__name__}: {str(error)[:160]})"
        advice = "download it elsewhere and give its file as task.data.path"
        raise PipelineError(f"task.data.hub: {problem}: {advice}") from error
    return {
        split: _lower_case((f"{hub}, {split} row {n}", row) for n, row in enumerate(found[split])) for split in found
    }


def read_file(path: Path, key: str = "task.data", *, text: bool = False) -> Rows:
    """The rows of a file that is named at `key`; its suffix says of what kind it is. With `text` it may be a .txt, each
    line of which is an `answer`."""
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, **({".txt": _lines} if text else {})}
    if path.suffix not in readers:
        raise PipelineError(f"{key}: {path} must be one of {', '.join(readers)}")
    try:
        if not path.is_file():
            where = "" if path.is_absolute() else " (paths start at the Snakefile's directory)"
            raise PipelineError(f"{key}: {path} is missing{where}")
        return _lower_case((f"{path}, {where}", row) for where, row in readers[path.suffix](path))
    except OSError as error:
        raise PipelineError(f"{key}: cannot read {path}: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is not a text file: {error}") from error
    yield from ((f"line {number}", {"answer": line}) for number, line in enumerate(lines, 1) if line.strip())


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                raise PipelineError(f"{path}, line {number}: is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise PipelineError(f"{path}, line {number}: is not a JSON object")
            yield f"line {number}", row


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines, strict=True)
            _check_columns(f"{path}, line 1", rows.fieldnames or ())
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
        table = pq.read_table(path, partitioning=None)
        names = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} is not a complete Parquet file: {str(error)[:120]}") from error
    _check_columns(str(path), names)
    columns = {}
    for name in names:
        try:
            columns[name] = table.column(name).to_pylist()
        except Exception as error:  # of text that is no UTF-8, a date after the year 9999, an unknown time zone
            problem = f"the column '{name}' has a value that Python cannot hold"
            raise PipelineError(f"{path}: {problem} ({str(error)[:120]}): mend or remove it") from error
    for number in range(len(table)):
        yield f"row {number}", {name: values[number] for name, values in columns.items()}


def _lower_case(rows: Iterable[tuple[str, Row]]) -> Rows:
    """The rows with their columns in lower case, without spaces around them."""
    found: Rows = []
    for where, row in rows:
        _check_columns(where, row)
        found.append((where, {str(name).strip().lower(): value for name, value in row.items()}))
    return found


def _check_columns(where: str, columns: Iterable[object]) -> None:
    """Raise `PipelineError` if two columns have the same name, or names that differ in capitals or spaces only."""
    names: dict[str, str] = {}
    for column in map(str, columns):
        if (name := column.strip().lower()) in names:
            raise PipelineError(f"{where}: '{names[name]}' and '{column}' are the same column: remove or rename one")
        names[name] = column


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, ValueError if a key occurs twice."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return found
