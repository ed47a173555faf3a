"""Arithmetic in a model's text: parsed against a whitelist, never evaluated as code.

    expression = integer | expression (+ | - | * | /) expression | -expression | +expression | (expression)

There is no power, and length, depth and magnitude are bounded, so every text is parsed quickly. Values are exact
fractions; those of d1's `eval` are Python's.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

LENGTH = 400
DEPTH = 24
MAGNITUDE = 1e15
CHARACTERS = re.compile(r"[0-9+\-*/().\s]*")

Number = float | Fraction
Operators = Mapping[type[ast.operator], Callable[[Number, Number], Number]]

FOUR: Operators = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
PYTHON: Operators = {**FOUR, ast.FloorDiv: operator.floordiv}
SIGNS: Mapping[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: lambda value: value,
    ast.USub: lambda value: -value,
}


class Expression(NamedTuple):
    """The numbers in an expression, sorted, and its value."""

    numbers: tuple[Number, ...]
    value: Number


def parse(text: str, *, python: bool = False) -> Expression | None:
    """The expression that `text` is; None for anything else, a division by zero, or what exceeds the bounds.

    With `python`, decimals and `//` are allowed too, as in d1's `eval`.
    """
    text = text.strip()
    if len(text) > LENGTH or not CHARACTERS.fullmatch(text):
        return None
    numbers: list[Number] = []
    try:
        value = _value(ast.parse(text, mode="eval").body, python, numbers, DEPTH)
    except (SyntaxError, ValueError, ArithmeticError, MemoryError, RecursionError):
        return None
    return Expression(tuple(sorted(numbers)), value)


def _value(node: ast.expr, python: bool, numbers: list[Number], depth: int) -> Number:
    """The value of a node, whose numbers are appended to `numbers`. ValueError for what is not in the grammar."""
    if depth == 0:
        raise ValueError("nested too deeply")
    operators = PYTHON if python else FOUR
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float) if python else int):
        numbers.append(node.value)
        return _bounded(node.value if python else Fraction(node.value))
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](_value(node.operand, python, numbers, depth - 1))
    if isinstance(node, ast.BinOp) and type(node.op) in operators:
        left, right = (_value(side, python, numbers, depth - 1) for side in (node.left, node.right))
        return _bounded(operators[type(node.op)](left, right))
    raise ValueError("not an arithmetic expression")


def _bounded(value: Number) -> Number:
    if not -MAGNITUDE <= value <= MAGNITUDE:
        raise ValueError("too large")
    return value
