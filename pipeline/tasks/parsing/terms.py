"""Compares the values of two LaTeX terms: both are parsed, and evaluated in exact fractions.

    sum = product ((+ | -) product)*          product = power ((* | / | nothing) power)*
    power = atom (^ power)?                   atom = number | letter | \\pi | \\frac{}{} | \\sqrt[n]{} | (sum) | {sum}

Variables are replaced by fixed fractions, three times: different polynomials rarely agree at all three. Tuples,
intervals and sets are compared part by part. Nothing is executed; length, depth and size of numbers are bounded.
"""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import cast

LENGTH = 400
DEPTH = 40
EXPONENT = 200
BITS = 20_000
RELATIVE = 1e-11
"""Tolerance for numbers with roots or π, which are floats."""
DENOMINATORS = (101, 103, 107)
TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|(\\[A-Za-z]+|\\[{}]|[A-Za-z]|[-+*/^(){}\[\],=<>]))")
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
BRACKETS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
NOT_A_TERM = (ValueError, ArithmeticError, RecursionError)
"""What reading raises for a text that is outside the grammar or exceeds the bounds."""

Number = Fraction | float


def same_value(one: str, other: str) -> bool:
    """Whether both are terms, or tuples of terms in the same brackets, with equal values."""
    try:
        return _same(_tokens(one), _tokens(other))
    except NOT_A_TERM:
        return False


def number(text: str) -> float | None:
    """The value of a term without variables; None for anything else."""
    try:
        tokens = _tokens(text)
        return None if any(map(_is_letter, tokens)) else float(_evaluated(tokens))
    except NOT_A_TERM:
        return None


def _same(one: list[str], other: list[str]) -> bool:
    if not one or not other:
        return False
    left, right = _parts(one), _parts(other)
    if len(left) == len(right) == 1:
        points = DENOMINATORS if any(map(_is_letter, one + other)) else DENOMINATORS[:1]
        return all(_close(_evaluated(one, point), _evaluated(other, point)) for point in points)
    ends = (one[0], one[-1]) == (other[0], other[-1])
    return ends and len(left) == len(right) and all(map(_same, left, right))


def _close(one: Number, other: Number) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    return math.isfinite(one) and math.isclose(one, other, rel_tol=RELATIVE, abs_tol=RELATIVE)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Number) -> Number:
    if isinstance(value, Fraction) and _bits(value) > BITS:
        raise ValueError("too large")
    return value


def _tokens(text: str) -> list[str]:
    if len(text) > LENGTH or WORD.search(text):
        raise ValueError("too long, or words")
    if TOKEN.sub("", text).strip():
        raise ValueError("unknown character")
    return [number or symbol for number, symbol in TOKEN.findall(text)]


def _parts(tokens: list[str]) -> list[list[str]]:
    """The parts between the commas of `(a, b)` or `a, b`; the whole as a single part if it is no tuple."""
    inside = tokens[1:-1] if tokens[0] in BRACKETS and tokens[-1] in (")", "]", "\\}") else tokens
    parts: list[list[str]] = [[]]
    depth = 0
    for token in inside:
        depth += (token in BRACKETS) - (token in BRACKETS.values())
        if token == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts if len(parts) > 1 else [tokens]


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isalpha()


def _evaluated(tokens: list[str], denominator: int = 1) -> Number:
    """The value of a term whose variables are fractions with this denominator."""
    reader = _Reader(tokens, {t: Fraction(ord(t) ** 2, denominator) for t in tokens if _is_letter(t)})
    value = reader.sum(DEPTH)
    if reader.peek():
        raise ValueError("something follows the term")
    return value


class _Reader:
    """Recursive descent; the methods named after the grammar return the value of what they read."""

    def __init__(self, tokens: list[str], variables: Mapping[str, Fraction]):
        self.tokens, self.variables, self.position = [*tokens, ""], variables, 0

    def peek(self) -> str:
        """The next token, "" at the end."""
        return self.tokens[self.position]

    def take(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1]

    def sum(self, depth: int) -> Number:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        total: Number = sign * self.product(depth)
        while self.peek() in ("+", "-"):
            total = _bounded(total + (1 if self.take() == "+" else -1) * self.product(depth))
        return total

    def product(self, depth: int) -> Number:
        value = self.power(depth)
        while True:
            if self.peek() in ("*", "/"):
                divide, factor = self.take() == "/", self.power(depth)
                value = _bounded(value / factor if divide else value * factor)
            elif self.peek() == "\\frac" and self._after_whole_number():
                value += self.power(depth)
            elif self.peek() in ("(", "{", "[") or self.peek()[:1].isalpha() or self.peek()[:1] == "\\":
                value = _bounded(value * self.power(depth))
            else:
                return value

    def _after_whole_number(self) -> bool:
        """Whether the `\\frac` here is part of a mixed number: `1\\frac{1}{2}`."""
        arguments = self.tokens[self.position + 1 : self.position + 7]
        return self.tokens[self.position - 1].isdigit() and all(t.isdigit() or t in "{}" for t in arguments)

    def power(self, depth: int) -> Number:
        base = self.atom(depth - 1)
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.power(depth - 1)
        size = abs(float(exponent))
        too_large = size > EXPONENT or (isinstance(base, Fraction) and size * _bits(base) > BITS)
        if too_large or (base < 0 and not size.is_integer()):
            raise ValueError("exponent")
        return cast(Number, base**exponent)

    def group(self, close: str, depth: int) -> Number:
        value = self.sum(depth)
        if self.take() != close:
            raise ValueError("not closed")
        return value

    def argument(self, depth: int) -> Number:
        """`{sum}`, or one digit or letter, as after `\\frac`."""
        token = self.take()
        if token == "{":
            return self.group("}", depth)
        if len(token) == 1 and token.isalnum():
            return Fraction(token) if token.isdigit() else self.variables[token]
        raise ValueError("no argument")

    def atom(self, depth: int) -> Number:
        if depth <= 0:
            raise ValueError("nested too deeply")
        token = self.take()
        if token in ("(", "[", "{"):
            return self.group(BRACKETS[token], depth)
        if token == "\\frac":
            return _bounded(self.argument(depth) / self.argument(depth))
        if token == "\\sqrt":
            return self.root(depth)
        if token == "\\pi":
            return math.pi
        return self.variables[token] if token in self.variables else Fraction(token)

    def root(self, depth: int) -> Number:
        degree: Number = Fraction(2)
        if self.peek() == "[":
            self.take()
            degree = self.group("]", depth)
        value = self.argument(depth)
        if value < 0:
            raise ValueError("root of a negative number")
        return math.pow(value, 1 / float(degree))
