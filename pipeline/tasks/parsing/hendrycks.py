"""Hendrycks' comparison of two answers of MATH, as the papers use it: equality of strings after a normalisation."""

from pipeline.tasks.parsing.answers import replaced

FIRST = (
    dict.fromkeys(("\n", "\\!"), "")
    | {"\\\\": "\\", "tfrac": "frac", "dfrac": "frac"}
    | dict.fromkeys(("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"), "")
)
THEN = {"\\%": "", " .": " 0.", "{.": "{0."}


def hendrycks_equal(answer: str, reference: str) -> bool:
    """Equality after `normalized`; plain equality if either string cannot be normalised."""
    try:
        return normalized(answer) == normalized(reference)
    except (ValueError, IndexError):
        return answer == reference


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
