"""Countdown items: generated, or read from rows of data sets and from saved generations."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pipeline.tasks.base import Item
from pipeline.tasks.data_files import Row

LARGEST = 100
NUMBERS = re.compile(r"Numbers: \[([\d, ]+)\]", re.IGNORECASE)
TARGET = re.compile(r"Target: (\d+)", re.IGNORECASE)
PAIR = re.compile(r"\s*[\[(]\s*[\[(]\s*(\d+(?:\s*,\s*\d+)*)\s*[\])]\s*,\s*(-?\d+)\s*[\])]\s*")


def puzzles(count: int, seen: set[str], rng: np.random.Generator) -> list[Item]:
    """`count` solvable items whose identities are not in `seen`; theirs are added to it."""
    items: list[Item] = []
    for numbers, target in solvable(rng):
        item = _item(numbers, target)
        if (known := identity(item)) not in seen:
            seen.add(known)
            items.append(item)
            if len(items) == count:
                break
    return items


def solvable(rng: np.random.Generator) -> Iterator[tuple[list[int], int]]:
    """An endless stream of three numbers in 1..100 and a target in 1..100.

    Numbers and an expression of them, (a∘b)∘c or a∘(b∘c), are drawn; its value is the target if it is a whole number
    in range.
    """
    while True:
        numbers = rng.integers(1, LARGEST + 1, size=(4096, 3))
        inner, outer, right = rng.integers(4, size=4096), rng.integers(4, size=4096), rng.integers(2, size=4096) == 1
        a, b, c = numbers.T.astype(float)
        value = np.where(right, _apply(outer, a, _apply(inner, b, c)), _apply(outer, _apply(inner, a, b), c))
        whole = np.isfinite(value) & (np.abs(value - np.rint(value)) < 1e-9) & (np.rint(value) >= 1)
        for index in np.flatnonzero(whole & (np.rint(value) <= LARGEST)):
            yield numbers[index].tolist(), int(np.rint(value[index]))


def _apply(operators: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left ∘ right with the operator of each row, 0..3 for + - * /; NaN for a division by 0."""
    divisor = np.where(right == 0, np.nan, right)
    return np.choose(operators, [left + right, left - right, left * right, left / divisor])


def numbers_and_target(reference: str) -> tuple[list[int], int]:
    """The sorted numbers and the target of a reference."""
    numbers, target = json.loads(reference)
    return sorted(numbers), target


def identity(item: Item) -> str:
    """A key that ignores the order of an item's numbers."""
    return json.dumps(numbers_and_target(item.reference))


def saved_item(question: str, reference: object) -> Item:
    """An item from `[[a, b, c], target]` or `{"numbers": …, "target": …}`, as it is or as a string, or from d1's
    question.
    """
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
    return replace(_item(_whole_numbers(reference[0]), _whole_number(reference[1])), prompt=question)


def row_item(row: Row) -> Item | None:
    """An item from a row of Countdown-Tasks-3to4 (nums, target) or d1's test file (input, output); None unless it has
    3 numbers.
    """
    numbers = _whole_numbers(_first(row, "nums", "input"))
    return _item(numbers, _whole_number(_first(row, "target", "output"))) if len(numbers) == 3 else None


def _first(row: Row, *names: str) -> object:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _whole_numbers(value: object) -> list[int]:
    if isinstance(value, str):
        value = value.strip().strip("[]()").replace(",", " ").split()
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"numbers must be a list of whole numbers, not {value!r}")
    return [_whole_number(number) for number in value]


def _whole_number(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,9}\s*", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9:
        return value
    raise ValueError(f"{value!r} is not a whole number")


def _item(numbers: list[int], target: int) -> Item:
    """An item without its prompt."""
    return Item("", json.dumps([numbers, target]), f"{len(numbers)} numbers")
