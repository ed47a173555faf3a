"""Countdown's items: numbers and a target, generated or read from data sets, references and questions."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.tasks.base import Item
from pipeline.tasks.data import Values

LARGEST = 100
NUMBERS = re.compile(r"Numbers: \[([\d, ]+)\]", re.IGNORECASE)
TARGET = re.compile(r"Target: (\d+)", re.IGNORECASE)
PAIR = re.compile(r"\s*[\[(]\s*[\[(]\s*(\d+(?:\s*,\s*\d+)*)\s*[\])]\s*,\s*(-?\d+)\s*[\])]\s*")


def puzzles(count: int, seen: set[str], rng: np.random.Generator) -> list[Item]:
    """`count` solvable items, none of whose identities are in `seen`, which grows by them."""
    items: list[Item] = []
    for numbers, target in solvable(rng):
        item = _item(numbers, target)
        if (known := identity(item)) not in seen:
            seen.add(known)
            items.append(item)
            if len(items) == count:
                break
    return items


def numbers_and_target(reference: str) -> tuple[list[int], int]:
    """The sorted numbers, and the target, of a reference."""
    numbers, target = json.loads(reference)
    return sorted(numbers), target


def saved_item(question: str, reference: Any) -> Item:
    """An item from `[[a, b, c], target]`, `{"numbers": …, "target": …}`, either as a string, or d1's question."""
    if isinstance(reference, str) and (pair := PAIR.fullmatch(reference)):
        reference = [pair[1].split(","), pair[2]]
    elif isinstance(reference, str) and reference.lstrip().startswith("{"):
        reference = json.loads(reference)
    if isinstance(reference, dict):
        reference = [_first(reference, "numbers", "nums", "input"), _first(reference, "target", "output")]
    if not (isinstance(reference, list) and len(reference) == 2):
        numbers, target = NUMBERS.search(question), TARGET.search(question)
        if not (numbers and target):
            raise ValueError(
                "reference must be [[a, b, c], target], or the question 'Numbers: [a, b, c]' and 'Target: t'"
            )
        reference = [numbers[1], target[1]]
    return replace(_item(_whole_numbers(reference[0]), _whole(reference[1])), prompt=question)


def read(row: Values) -> Item | None:
    """A row of Countdown-Tasks-3to4 (nums, target) or of d1's test file (input, output); left out unless 3 numbers."""
    numbers = _whole_numbers(_first(row, "nums", "input"))
    return _item(numbers, _whole(_first(row, "target", "output"))) if len(numbers) == 3 else None


def _first(row: Values, *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _whole_numbers(value: Any) -> list[int]:
    if isinstance(value, str):
        value = value.strip().strip("[]()").replace(",", " ").split()
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"numbers must be a list of whole numbers, not {value!r}")
    return [_whole(number) for number in value]


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,9}\s*", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9:
        return value
    raise ValueError(f"{value!r} is not a whole number")


def _item(numbers: list[int], target: int) -> Item:
    """An item that is not put into words yet."""
    return Item("", json.dumps([numbers, target]), f"{len(numbers)} numbers")


def identity(item: Item) -> str:
    """What two items share that differ in the order of their numbers only."""
    return json.dumps(numbers_and_target(item.reference))


def solvable(rng: np.random.Generator) -> Iterator[tuple[list[int], int]]:
    """Three numbers in 1..100 and a target in 1..100, without end.

    Numbers and a way to join them, (a∘b)∘c or a∘(b∘c), are drawn; what comes to a whole number in range is a target.
    """
    while True:
        numbers = rng.integers(1, LARGEST + 1, size=(4096, 3))
        inner, outer, right = rng.integers(4, size=4096), rng.integers(4, size=4096), rng.integers(2, size=4096) == 1
        a, b, c = numbers.T.astype(float)
        value = np.where(right, _joined(a, _joined(b, c, inner), outer), _joined(_joined(a, b, inner), c, outer))
        whole = np.isfinite(value) & (np.abs(value - np.rint(value)) < 1e-9) & (np.rint(value) >= 1)
        for index in np.flatnonzero(whole & (np.rint(value) <= LARGEST)):
            yield numbers[index].tolist(), int(np.rint(value[index]))


def _joined(left: np.ndarray, right: np.ndarray, operator_of_row: np.ndarray) -> np.ndarray:
    """left ∘ right, ∘ the operator of each row; NaN for a division by 0."""
    divisor = np.where(right == 0, np.nan, right)
    return np.choose(operator_of_row, [left + right, left - right, left * right, left / divisor])
