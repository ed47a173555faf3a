"""Whether two terms written in LaTeX have the same value: both are parsed, and evaluated in exact fractions.

    sum = product ((+ | -) product)*          product = power ((* | / | nothing) power)*
    power = atom (^ power)?                   atom = number | letter | \\pi | \\frac{}{} | \\sqrt[n]{} | (sum) | {sum}

Variables stand for fixed fractions, three times: different polynomials agree there by a rare accident only. Tuples,
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
"""Between numbers with roots or π, which are floats."""
DENOMINATORS = (101, 103, 107)
TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|(\\[A-Za-z]+|\\[{}]|[A-Za-z]|[-+*/^(){}\[\],=<>]))")
BRACKETS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}


Number = Fraction | float


class _SyntaxError(ValueError):
    """The text is not of this grammar."""


def same_value(one: str, other: str) -> bool:
    """Whether both are terms, or tuples of terms in the same brackets, with equal values."""
    try:
        return _same(_tokens(one), _tokens(other))
    except (_SyntaxError, ArithmeticError, RecursionError):
        return False


def number(text: str) -> float | None:
    """The value of a term without variables; None for anything else."""
    try:
        tokens = _tokens(text)
        return float(_evaluated(tokens, 0)) if not any(map(_is_letter, tokens)) else None
    except (_SyntaxError, ArithmeticError, RecursionError):
        return None


def _same(one: list[str], other: list[str]) -> bool:
    if not one or not other:
        return False
    left, right = _parts(one), _parts(other)
    if len(left) == len(right) == 1:
        points = range(len(DENOMINATORS) if any(map(_is_letter, one + other)) else 1)
        return all(_close(_evaluated(one, index), _evaluated(other, index)) for index in points)
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
        raise _SyntaxError("too large")
    return value


def _tokens(text: str) -> list[str]:
    if len(text) > LENGTH or re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text):
        raise _SyntaxError("too long, or words")
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        token = TOKEN.match(text, position)
        if token is None:
            raise _SyntaxError("unknown character")
        tokens.append(token[1] or token[2])
        position = token.end()
    return tokens


def _parts(tokens: list[str]) -> list[list[str]]:
    """The parts between commas of `(a, b)` or `a, b`; a single one for what is no tuple."""
    inside = tokens[1:-1] if tokens and tokens[0] in BRACKETS and tokens[-1] in (")", "]", "\\}") else tokens
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


def _evaluated(tokens: list[str], index: int) -> Number:
    point = {letter: Fraction(ord(letter) ** 2, DENOMINATORS[index]) for letter in filter(_is_letter, tokens)}
    reader = _Reader(tokens, point)
    value = reader.sum(DEPTH)
    if reader.position != len(tokens):
        raise _SyntaxError("something follows")
    return value


class _Reader:
    """Recursive descent over tokens; every method returns the value of what it read."""

    def __init__(self, tokens: list[str], point: Mapping[str, Fraction]):
        self.tokens, self.point, self.position = tokens, point, 0

    def next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1] if self.position <= len(self.tokens) else ""

    def sum(self, depth: int) -> Number:
        if depth == 0:
            raise _SyntaxError("nested too deeply")
        sign = 1
        while self.next() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        total: Number = sign * self.product(depth)
        while self.next() in ("+", "-"):
            total = _bounded(total + (1 if self.take() == "+" else -1) * self.product(depth))
        return total

    def product(self, depth: int) -> Number:
        value = self.power(depth)
        while True:
            if self.next() in ("*", "/"):
                divide, factor = self.take() == "/", self.power(depth)
                value = _bounded(value / factor if divide else value * factor)
            elif self.next() == "\\frac" and self._whole_number_before():
                value += self.power(depth)
            elif self.next() and (self.next() in ("(", "{", "[") or self.next()[0].isalpha() or self.next()[0] == "\\"):
                value = _bounded(value * self.power(depth))
            else:
                return value

    def _whole_number_before(self) -> bool:
        """Whether `\\frac` makes a mixed number: `1\\frac{1}{2}`."""
        inside = self.tokens[self.position + 1 : self.position + 7]
        return self.tokens[self.position - 1].isdigit() and all(t.isdigit() or t in "{}" for t in inside[:6])

    def power(self, depth: int) -> Number:
        base: Number = self.atom(depth - 1)
        if self.next() != "^":
            return base
        self.take()
        exponent: Number = self.power(depth - 1)
        size = abs(float(exponent))
        if size > EXPONENT or (base < 0 and not size.is_integer()):
            raise _SyntaxError("exponent")
        if isinstance(base, Fraction) and size * _bits(base) > BITS:
            raise _SyntaxError("too large")
        return cast(Number, base**exponent)

    def group(self, close: str, depth: int) -> Number:
        value = self.sum(depth)
        if self.take() != close:
            raise _SyntaxError("not closed")
        return value

    def argument(self, depth: int) -> Number:
        """`{sum}`, or one digit or letter, as after `\\frac`."""
        token = self.take()
        if token == "{":
            return self.group("}", depth)
        if len(token) == 1 and token.isalnum():
            return Fraction(token) if token.isdigit() else self.point[token]
        raise _SyntaxError("no argument")

    def atom(self, depth: int) -> Number:
        if depth <= 0:
            raise _SyntaxError("nested too deeply")
        token = self.take()
        group = {"(": ")", "[": "]", "{": "}"}.get(token)
        if group:
            return self.group(group, depth)
        if token == "\\frac":
            return _bounded(self.argument(depth) / self.argument(depth))
        if token == "\\sqrt":
            return self.root(depth)
        if token == "\\pi":
            return math.pi
        if token in self.point:
            return self.point[token]
        if token[:1].isdigit() or token[:1] == ".":
            return Fraction(token)
        raise _SyntaxError("unknown token")

    def root(self, depth: int) -> Number:
        degree: Number = Fraction(2)
        if self.next() == "[":
            self.take()
            degree = self.group("]", depth)
        value = self.argument(depth)
        if value < 0:
            raise _SyntaxError("root of a negative number")
        return math.pow(value, 1 / float(degree))
