"""Compares two answers of MATH: Hendrycks' string normalisation, and a more lenient comparison.

`hendrycks_equal` is the comparison of the papers. `equal` also accepts differences in formatting, such as `58,500`,
`\\text{east}`, `12 cm`, and numbers or terms that have the same value (`pipeline.tasks.parsing.terms`).
"""

import re

from pipeline.tasks.parsing.answers import replaced
from pipeline.tasks.parsing.terms import same_value

FIRST = (
    dict.fromkeys(("\n", "\\!"), "")
    | {"\\\\": "\\", "tfrac": "frac", "dfrac": "frac"}
    | dict.fromkeys(("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"), "")
)
THEN = {"\\%": "", " .": " 0.", "{.": "{0."}
REPAIRS = {"\\%": "", "%": "", "$": "", "{,}": ",", "\\cdot": "*", "\\times": "*"}

SPACES = re.compile(r"\\[,;:! ]|\\q?quad\b|~|\\displaystyle|\\limits")
WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
LEFT_OF_EQUALS = re.compile(r"\s*[A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*=(?!=)")
UNIT = (
    r"(?:square|cubic|sq|cu)?\s*(?:mm|cm|km|meters?|metres?|centimeters?|kilometers?|inch(?:es)?|in|ft|feet|foot|yards?|"
    r"miles?|mph|degrees?|radians?|dollars?|cents?|units?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|"
    r"kg|grams?|kilograms?|pounds?|ounces?|liters?|litres?|ml|gallons?|percent|points?|students?|people|ways)"
)
UNITS = re.compile(rf"(?<=[\d}})])\s*{UNIT}(?:\s*(?:/|per)\s*{UNIT})?\s*(?:\^\{{?[23]\}}?)?\s*\.?\s*$")
WORD = re.compile(r"\(?[A-Za-z]{2,}\)?")
LONGEST = 400
"""Longer answers are compared by `hendrycks_equal` only."""


def hendrycks_equal(answer: str, reference: str) -> bool:
    """Hendrycks' string equality; plain equality if either string cannot be normalised."""
    try:
        return normalized(answer) == normalized(reference)
    except (ValueError, IndexError):
        return answer == reference


def equal(answer: str, reference: str) -> bool:
    """`hendrycks_equal`, before or after the formatting is repaired, or the same value."""
    if hendrycks_equal(answer, reference):
        return True
    if max(len(answer), len(reference)) > LONGEST:
        return False
    one, other = repaired(answer), repaired(reference)
    return hendrycks_equal(one, other) or same_value(one, other)


def normalized(text: str) -> str:
    """Hendrycks' normalisation, in the original order. ValueError or IndexError where the original code gives up:
    two units, `x/2`, a `\\frac` without arguments.
    """
    text = replaced(text, FIRST)
    text, *units = text.split("\\text{ ")
    if len(units) > 1:
        raise ValueError("more than one unit")
    text = replaced(text, THEN)
    if not text:
        return text
    if text.startswith("."):
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _fractions(_roots(text).replace(" ", ""))
    return _slash(r"\frac{1}{2}" if text == "0.5" else text)


def repaired(text: str) -> str:
    """Without `$`, spaces, `\\text`, thousands separators, units and a left side `x =`; words in lower case."""
    text = replaced(replaced(text.strip().strip("$").strip().removesuffix("."), FIRST), REPAIRS)
    text = WORDS.sub(r" \1 ", SPACES.sub(" ", text))
    text = UNITS.sub("", " ".join(LEFT_OF_EQUALS.sub("", text, count=1).split())).replace(" ", "")
    if THOUSANDS.fullmatch(text):
        return text.replace(",", "")
    if WORD.fullmatch(text):
        return text.lower()
    try:
        return _fractions(_roots(text))
    except IndexError:
        return text


def _roots(text: str) -> str:
    """`\\sqrt3` → `\\sqrt{3}`"""
    first, *rest = text.split("\\sqrt")
    return first + "".join("\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}") for part in rest)


def _fractions(text: str) -> str:
    """`\\frac12` → `\\frac{1}{2}`, `\\frac1{72}` → `\\frac{1}{72}`"""
    first, *rest = text.split("\\frac")
    parts = [first]
    for part in rest:
        if part[0] == "{":
            parts.append(part)
        elif len(part) < 2:
            return text
        else:
            below = part[1] if part[1] == "{" else f"{{{part[1]}}}"
            parts.append(f"{{{part[0]}}}{below}{part[2:]}")
    return "\\frac".join(parts)


def _slash(text: str) -> str:
    """`3/4` → `\\frac{3}{4}` for integers written plainly"""
    if text.count("/") != 1:
        return text
    above, below = map(int, text.split("/"))
    return rf"\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text
