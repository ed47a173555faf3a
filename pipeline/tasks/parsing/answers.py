"""Finds the answer in a generated text: `\\boxed{…}`, `<answer>` tags, fenced blocks, stop tokens.

Texts come from a model and may be hostile, so every function takes time linear in their length.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

OPEN, CLOSE = "<answer>", "</answer>"
STOP = re.compile(r"<\|eot_id\|>|<\|endoftext\|>")
STOP_OR_CLOSE = re.compile(rf"{STOP.pattern}|{CLOSE}")
BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|[{}]")
FENCED = re.compile(r"```([\d\s]+)```")
DIGITS_BEFORE_CLOSE = re.compile(rf"(\d{{16}})\s*{CLOSE}")
SIXTEEN_DIGITS = re.compile(r"\b(\d{16})\b")
LEFT_SIDE = "0123456789+-*/() "
RIGHT_SIDE = "0123456789. "


def before_stop(text: str) -> str:
    """The text before the first stop token."""
    return STOP.split(text, maxsplit=1)[0]


def without_stops(text: str) -> str:
    """The text as decoded by a tokenizer that skips special tokens."""
    return STOP.sub("", text)


def between(text: str, opening: str, closing: str) -> list[str]:
    """What stands between each `opening` and the next `closing`, stripped."""
    contents = []
    start = text.find(opening)
    while start >= 0 and (end := text.find(closing, start)) >= 0:
        contents.append(text[start + len(opening) : end].strip())
        start = text.find(opening, end)
    return contents


def tagged(text: str) -> list[str]:
    """The contents of all closed `<answer>…</answer>`, stripped."""
    return between(text, OPEN, CLOSE)


def unfenced(text: str) -> str:
    """The contents of the first fenced block, or the whole text if there is none."""
    _, opened, inside = text.partition("```")
    return inside.partition("```")[0] if opened else text


def boxes(text: str) -> Iterator[str]:
    """The contents of the closed boxes, last one first; braces are balanced."""
    spans: list[tuple[int, int]] = []
    open_braces: list[int | None] = []
    for brace in BRACES.finditer(text):
        if brace[0] != "}":
            open_braces.append(brace.end() if len(brace[0]) > 1 else None)
        elif open_braces and (start := open_braces.pop()) is not None:
            spans.append((start, brace.start()))
    return (text[start:end].strip() for start, end in sorted(spans, reverse=True))


def short_boxes(text: str) -> list[str]:
    """The contents of boxes up to the first `}`, d1's rule for numbers: `\\boxed{\\frac{1}{2}}` gives `\\frac{1`."""
    return [box for line in text.split("\n") for box in between(line, r"\boxed{", "}")]


def d1_box(text: str) -> str | None:
    """The last box as d1 finds it: the text from the last `\\boxed ` to the next `$`; else the inside of the last
    `\\boxed{…}`; else the last `\\fbox{…}` with its command; the whole text if there is none; None if it is not closed.
    """
    if "\\boxed " in text:
        return text.rsplit("\\boxed ", 1)[1].split("$", 1)[0]
    start = text.rfind("\\boxed") if "\\boxed" in text else text.rfind("\\fbox")
    if start < 0:
        return text
    depth = 0
    for brace in re.finditer("[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0 and brace[0] == "}":
            box = text[start : start + brace.end()]
            return box[len("\\boxed{") : -1] if box.startswith("\\boxed{") else box
    return None


def left_side(expression: str) -> str:
    """The arithmetic left of the first `=` before a number; the whole expression if there is none."""
    for left, right in pairwise(expression.split("=")):
        if left[-1:] and left[-1] in LEFT_SIDE and right[:1] and right[0] in RIGHT_SIDE:
            return left[len(left.rstrip(LEFT_SIDE)) :].strip()
    return expression


def replaced(text: str, replacements: Mapping[str, str]) -> str:
    """The text after all replacements, one at a time in their order."""
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def d1_grid(text: str) -> str:
    """A Sudoku grid as d1 finds it: the first of these that is not blank, without whitespace; "" if all are.

    A fenced block after `<answer>`; the text from `<answer>` to a stop token or `</answer>`; the text after
    `</answer>`; 16 digits before `</answer>`; any 16 digits.
    """
    after, rest = text.partition(OPEN)[2], text.partition(CLOSE)[2]
    ended = STOP_OR_CLOSE.search(after)
    fenced, before_close, anywhere = FENCED.search(after), DIGITS_BEFORE_CLOSE.search(text), SIXTEEN_DIGITS.search(text)
    candidates = (
        fenced[1] if fenced else "",
        after[: ended.start()] if ended else "",
        before_stop(rest),
        before_close[1] if before_close else "",
        anywhere[1] if anywhere else "",
    )
    return next(("".join(candidate.split()) for candidate in candidates if candidate.strip()), "")
