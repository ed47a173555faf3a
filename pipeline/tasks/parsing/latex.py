"""Answers written in LaTeX or plain text: typography, exact numbers, lists, and the equalities that need no algebra.

Profile `strict` leaves to algebra (math-verify, see `symbolic.py`) only what these rules do not decide.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

LONGEST = 400
"""Longer answers are not read."""

SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "·": "\\cdot ", "×": "\\times ", "÷": "\\div ", "π": "\\pi ", "θ": "\\theta ", "°": ""}
    | {"∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "∪": "\\cup ", "∈": "\\in ", "²": "^2", "³": "^3"}
    | {"½": "\\frac{1}{2}", "√": "\\sqrt ", "\xa0": " ", "\u2009": " ", "\u202f": " "}
)
DROPPED = re.compile(
    r"\\?[$%]|\\[()]|\\!\s*|^\s*\\\[|\\\]\s*$|\^\{?\\circ\}?|\\(?:left|right|displaystyle|limits)(?![A-Za-z])"
)
REWRITTEN: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\{,\}", ","),
        (r"(?<=\d)\\,(?=\d{3}(?!\d))", ""),  # 58\,500
        (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\([gl])eq(?:slant)?(?![A-Za-z])", r"\\\1e"),
        (r"(?<![\\A-Za-z])(pi|sqrt|sin|cos|tan|log|ln)(?![A-Za-z])", r"\\\1 "),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\\frac\s*(\{[^{}]*\}|\w)\s*(\w)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\w)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\{\{([^{}]*)\}\}", r"\\frac{\1}"),
    )
]
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
UNIT = (
    r"(?:square|cubic|sq|cu)?\s*(?:mm|cm|km|meters?|metres?|centimeters?|kilometers?|inch(?:es)?|in|ft|feet|foot|yards?|"
    r"miles?|mph|degrees?|radians?|dollars?|cents?|units?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|"
    r"kg|grams?|kilograms?|pounds?|ounces?|liters?|litres?|ml|gallons?|percent|points?|students?|people|ways|cups?)"
)
UNITS = re.compile(
    rf"(?<=[\d}})])\s*{UNIT}(?:\s*(?:/|per)\s*{UNIT})?\s*(?:\^\{{?[23]\}}?)?\s*(?=$|,|\s(?:and|or)\s)", re.IGNORECASE
)
DOTS = re.compile(r"\.?(?:\s+\.)?$")
"""That of the sentence, after that of an abbreviation."""
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
POWER_OF_TEN = r"[eE](?P<e>[-+]?\d{1,2})|\s*(?:\\times|\\cdot|\*)\s*10\^\{?(?P<ten>[-+]?\d{1,2})\}?"
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?:(?P<whole>\d+)(?:\s+|(?=\\)))?(?:\\frac\{{(?P<a>[-+]?{DECIMAL})\}}\{{(?P<b>[-+]?{DECIMAL})\}}"
    rf"|(?P<c>{DECIMAL})\s*/\s*(?P<d>{DECIMAL}))|(?P<decimal>{DECIMAL})(?:{POWER_OF_TEN})?)"
)
"""A mixed number, fraction or decimal, which may have a power of ten."""
BASE = re.compile(r"((?=[A-Z]*\d)[0-9A-Z]+)_\{?(\d+)\}?")
EQUATION = re.compile(r"(?=[^=]*\d\s*[A-Za-z])[^=]*=\s*0")
SPACES = re.compile(r"(?<!\d) | (?!\d)")
WORDS = re.compile(r"\(?[A-Za-z][A-Za-z' ]+[A-Za-z]\)?")
SIDE_BY_SIDE = re.compile(r"(?<![\^_\d])\d[\d.]*(?:\s+\d|\{\d)")
OPENING, CLOSING = "([{", ")]}"
AND = re.compile(r"\s+(?:and|or)\s+")


def tidy(text: str, *, units: bool = True) -> str:
    """Without what only typesets (`$`, `\\left`, spaces, `\\text`), percent and degree signs and thousands separators;
    `\\frac12` and `\\sqrt3` with braces, Unicode signs as commands. With `units`, those after a number, or each of a
    list, go, too. A text longer than `LONGEST` is "".
    """
    if len(text) > LONGEST:
        return ""
    text = TEXT.sub(r" \1 ", DROPPED.sub("", text.translate(SYMBOLS)))
    for pattern, replacement in REWRITTEN:
        text = pattern.sub(replacement, text)
    text = DOTS.sub("", " ".join(text.split())).rstrip()
    text = UNITS.sub("", text) if units else text
    return text.replace(",", "") if THOUSANDS.fullmatch(text) else text


def number(text: str) -> Fraction | None:
    """The exact value of a tidy decimal, fraction or mixed number, also with a power of ten; None for all else."""
    found = NUMBER.fullmatch(text)
    return value_of(found) if found else None


def value_of(found: re.Match[str]) -> Fraction | None:
    """The value of a match of `NUMBER`; None for a division by zero."""
    if found["decimal"]:
        size = Fraction(found["decimal"]) * Fraction(10) ** int(found["e"] or found["ten"] or 0)
    else:
        above, below = Fraction(found["a"] or found["c"]), Fraction(found["b"] or found["d"])
        if below == 0:
            return None
        size = int(found["whole"] or 0) + above / below
    return -size if found["sign"] == "-" else size


def equal(one: str, other: str, algebra: Callable[[str, str], bool]) -> bool:
    """Whether a tidy answer equals a tidy reference: the first of these rules that applies decides, else `algebra`.

    1. The same characters are equal, apart from spaces and, in words, capitals; other words are different.
    2. Numbers are equal if their exact values are.
    3. Numerals in a base: digits and base must agree; the base of the reference, or 10, may be left out.
    4. An equation such as `2x-y = 0` is not the number 0, nor any other term.
    5. Lists: `1,2`, `1 and 2` and `\\{1,2\\}` in any order; `(1,2)`, `[1,2)` in order and between the same brackets.
    6. Numbers side by side, `1 2` or `4{10}`, are neither a sum nor a product.
    """
    if not one or not other:
        return False
    for rule in (_same_characters, _same_number, _same_numeral, _same_equation):
        if (verdict := rule(one, other)) is not None:
            return verdict
    if (parts := listed(one)) and (others := listed(other)):
        return _same_lists(parts, others, algebra)
    return not (SIDE_BY_SIDE.search(one) or SIDE_BY_SIDE.search(other)) and algebra(one, other)


def _same_characters(one: str, other: str) -> bool | None:
    if SPACES.sub("", one) == SPACES.sub("", other):
        return True
    words = WORDS.fullmatch(one) and WORDS.fullmatch(other) and max(len(one), len(other)) > 2
    return one.strip("()").lower() == other.strip("()").lower() if words else None


def _same_number(one: str, other: str) -> bool | None:
    left, right = number(one), number(other)
    return None if left is None or right is None else left == right


def _same_numeral(one: str, other: str) -> bool | None:
    base, asked = BASE.fullmatch(one), BASE.fullmatch(other)
    if base and asked:
        return base.groups() == asked.groups()
    if base:
        return base.groups() == (other, "10")
    return one == asked[1] if asked else None


def _same_equation(one: str, other: str) -> bool | None:
    implicit = EQUATION.fullmatch(one) or EQUATION.fullmatch(other)
    return False if implicit and ("=" in one) != ("=" in other) else None


def listed(text: str) -> tuple[str, list[str]] | None:
    """The brackets and the elements of a list of two or more; the brackets of an unordered one are "". None if the text
    is no list.
    """
    brackets = text[:1] + text[-1:] if _enclosed(text) else ""
    braced = text.startswith("\\{") and text.endswith("\\}")
    inside = text[1:-1] if brackets else text[2:-2] if braced else text
    elements = [""]
    depth = 0
    for piece in re.split(r"([(){}\[\],])", AND.sub(",", inside).replace(",,", ",")):
        depth += (piece != "" and piece in OPENING) - (piece != "" and piece in CLOSING)
        if piece == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += piece
    elements = [element.strip() for element in elements]
    return (brackets, elements) if len(elements) > 1 and all(elements) and depth == 0 else None


def _enclosed(text: str) -> bool:
    """Whether the first bracket is closed by the last character: not in `(1,2), (3,4)`."""
    depth, enclosed = 0, text[:1] in ("(", "[") and text[-1:] in (")", "]")
    for position, character in enumerate(text if enclosed else "", 1):
        depth += (character in OPENING) - (character in CLOSING)
        enclosed &= depth > 0 or position == len(text)
    return enclosed


def _same_lists(one: tuple[str, list[str]], other: tuple[str, list[str]], algebra: Callable[[str, str], bool]) -> bool:
    """Whether each element equals another one of the other list, between brackets the one at its place."""
    (brackets, elements), (others, rest) = one, other
    if brackets != others or len(elements) != len(rest):
        return False
    for element in elements:
        found = next((known for known in (rest[:1] if brackets else rest) if equal(element, known, algebra)), None)
        if found is None:
            return False
        rest.remove(found)
    return True
