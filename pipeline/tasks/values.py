"""Values of a row: a text or a number, and nothing that only looks like one when it is printed."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal


class NoAnswerError(ValueError):
    """A row without an answer, as there are in published training sets: it cannot be trained on or tested with."""


def missing_column(names: Sequence[str], row: Mapping[str, object]) -> str:
    """The end of an error message: none of the columns `names` is in the row."""
    return f"the column {' or '.join(names)} is missing; found: {', '.join(sorted(row))}"


def text_of(value: object, column: str) -> str:
    """A text that is not blank, stripped.

    Raises:
        ValueError: for anything else, or a text with a lone surrogate, which no file can hold.
    """
    if not isinstance(value, str):
        raise ValueError(f"{column} must be a text, not {_short(value)}")
    value.encode()
    if not value.strip():
        raise ValueError(f"the {column} is empty")
    return value.strip()


def plain_text(value: object, column: str, *, optional: bool = False) -> str:
    """A text or a finite number as a stripped text, without an exponent; if it is `optional`, "" for None or a blank.

    Raises:
        ValueError: for booleans, NaN, infinity, bytes, lists and all else, which is never turned into a text.
    """
    if optional and (value is None or (isinstance(value, str) and not value.strip())):
        return ""
    if isinstance(value, str):
        return text_of(value, column)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{column} must be a text or a number, not {_short(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{column} must be a text or a finite number, not {value}")
    return f"{Decimal(str(value)):f}"


def _short(value: object) -> str:
    """A value in an error message."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
