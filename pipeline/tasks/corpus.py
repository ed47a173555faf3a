"""Texts of one's own that a base model learns from (`base.data`): prompts and answers in a file."""

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.tasks.base import Item
from pipeline.tasks.data_files import Row, read_file
from pipeline.tasks.values import NoAnswerError, missing_column, plain_text

PROMPTS, ANSWERS = ("prompt", "question"), ("answer", "response", "text", "sequence", "reference")
"""Columns: the first that a row has is read. A row without a prompt has an empty one.
`reference` is the column of a run's items."""
KEY = "base.data"


def read_corpus(path: Path) -> list[tuple[str, Item]]:
    """(place in the file, item) of each row; the reference is the answer. Rows with an empty answer are left out, and
    the log counts them.

    Raises:
        PipelineError: for a file that is missing, or of another kind, without an answer, or with a value that is no
            text.
    """
    found, empty = [], []
    for where, row in read_file(path, KEY, text=True):
        try:
            found.append((where, Item(prompt=_value(row, PROMPTS) or "", reference=_answer(row))))
        except NoAnswerError:
            empty.append(where)
        except ValueError as error:
            raise PipelineError(f"{where}: {error}") from error
    if empty:
        print(f"{len(empty)} rows left out: without an answer, first {empty[0]}")
    if not found:
        raise PipelineError(f"{KEY}: {path} has no answers to learn from")
    return found


def _answer(row: Row) -> str:
    answer = _value(row, ANSWERS)
    if answer is None:
        raise ValueError(missing_column(ANSWERS, row))
    if not answer:
        raise NoAnswerError("the answer is empty")
    return answer


def _value(row: Row, columns: tuple[str, ...]) -> str | None:
    """The stripped text of the first of these columns, None if the row has none of them."""
    name = next((name for name in columns if name in row), None)
    return None if name is None else plain_text(row[name], name, optional=True)
