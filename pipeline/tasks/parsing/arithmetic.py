"""Arithmetic from a model's text: parsed against a whitelist, never evaluated as code.

    expression = integer | expression (+ | - | * | /) expression | -expression | +expression | (expression)

There is no power, and length, depth and magnitude are bounded, so that no text takes long.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LENGTH = 400
DEPTH = 24
MAGNITUDE = 1e15
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
