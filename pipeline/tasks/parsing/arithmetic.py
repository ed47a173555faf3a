"""Arithmetic from a model's text: parsed against a whitelist, never evaluated as code.

    expression = integer | expression (+ | - | * | /) expression | -expression | +expression | (expression)

There is no power, and length, depth and magnitude are bounded, so that no text takes long. `solvable` draws numbers
and targets that such an expression reaches.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

LENGTH = 400
DEPTH = 24
MAGNITUDE = 1e15
LARGEST = 100
CHARACTERS = re.compile(r"[0-9+\-*/().\s]*")

Number = int | float
Kinds = tuple[type[int]] | tuple[type[int], type[float]]
Operators = Mapping[type[ast.operator], Callable[[Number, Number], Number]]

FOUR: Operators = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
PYTHON: Operators = {**FOUR, ast.FloorDiv: operator.floordiv}
"""What d1 can evaluate besides: `//`, and decimals."""
SIGNS: Mapping[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


@dataclass(frozen=True)
class Expression:
    """Attributes:
    numbers: the numbers written, sorted.
    value: what they come to.
    """

    numbers: tuple[Number, ...]
    value: Number


def parse(text: str, *, operators: Operators = FOUR, decimals: bool = False) -> Expression | None:
    """The expression that `text` writes; None for anything else, a division by zero, or what leaves the bounds."""
    text = text.strip()
    if len(text) > LENGTH or not CHARACTERS.fullmatch(text):
        return None
    numbers: list[Number] = []
    try:
        tree = ast.parse(text, mode="eval")
        value = _value(tree.body, operators, (int, float) if decimals else (int,), numbers, DEPTH)
    except (SyntaxError, ValueError, ArithmeticError, MemoryError, RecursionError):
        return None
    return Expression(tuple(sorted(numbers)), value)


def _value(node: ast.expr, operators: Operators, kinds: Kinds, numbers: list[Number], depth: int) -> Number:
    """The value of a node; its numbers are appended to `numbers`. ValueError for what is not of the grammar."""
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(node, ast.Constant) and isinstance(node.value, kinds):
        numbers.append(node.value)
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](_value(node.operand, operators, kinds, numbers, depth - 1))
    if isinstance(node, ast.BinOp) and type(node.op) in operators:
        left = _value(node.left, operators, kinds, numbers, depth - 1)
        right = _value(node.right, operators, kinds, numbers, depth - 1)
        return _bounded(operators[type(node.op)](left, right))
    raise ValueError("not an arithmetic expression")


def _bounded(value: Number) -> Number:
    if not abs(value) <= MAGNITUDE:
        raise ValueError("too large")
    return value


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
