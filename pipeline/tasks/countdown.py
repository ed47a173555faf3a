"""Countdown: make a target from three numbers, each used exactly once, and + - * /.

Items are generated (numbers and target in 1..100, solvable) or come from a data set (`task.data`). The reference of an
item to solve is `[[a, b, c], target]`. The answers of the *base* split use each number exactly once, in random order or
as given, with random operators; + is drawn twice as often as the others (docs/tasks.md says why).
"""

import json
import re
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline.tasks.base import Item, Saved, Task
from pipeline.tasks.chat import TEST_FORMAT, TRAIN_FORMAT, PuzzleSettings, chat_task, worded
from pipeline.tasks.data import RowFormat, load_splits
from pipeline.tasks.generators.countdown_puzzles import identity, numbers_and_target, puzzles, row_item, saved_item
from pipeline.tasks.parsing.answers import before_stop, boxes, d1_box, left_side, replaced, tagged, without_stops
from pipeline.tasks.parsing.arithmetic import DEPTH, parse
from pipeline.tasks.parsing.latex import tidy

TEMPLATES = {
    "compact": "{a:3d} {b:3d} {c:3d}={target:3d}>",
    "chat-train": TRAIN_FORMAT
    + (
        "Using only the numbers {numbers}, create an arithmetic expression that evaluates to exactly {target}. You must"
        " use all numbers from the list, and each number must be used exactly once. You may use the operations +, -, *,"
        " and / as needed. After reasoning, provide only your final expression inside <answer></answer> tags without"
        " including an equals sign or the target number. For example, if the numbers are [2, 3, 4] and the target is 5,"
        " a valid answer is: <answer>\n2*4-3\n</answer>"
    ),
    "chat": (
        "Using only the provided numbers, create an arithmetic expression that evaluates to exactly the provided target"
        " number. You may use the operations +, -, *, and / as needed, but each number must be used exactly once. Think"
        " step-by-step. After reasoning, provide only your final expression inside \\boxed{{}} tags without including"
        " an equals sign or the target number. For example: \\boxed{{a + b * c}}"
    )
    + TEST_FORMAT
    + "\n\nNumbers: {numbers}\nTarget: {target}",
}
ALPHABET = "0123456789 +-*/()=>"
ANSWER_LENGTH = 15
SHAPES = (" {0:3d}{3} {1:3d} {4}{2:3d} ", "({0:3d}{3} {1:3d}){4}{2:3d} ", " {0:3d}{3}({1:3d} {4}{2:3d})")
"""Compact answers: every digit, operator and parenthesis has a fixed position, filled with a space if it is absent."""
OPERATORS = "++-*/"
TOLERANCE = 1e-5
"""d1's; `strict` wants the exact target."""
FORMAT_REWARD = 0.1

FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
OPERATOR_COMMANDS = {r"\div": "/", r"\times": "*", r"\cdot": "*"}


class Countdown(PuzzleSettings):
    """How many items to generate, or where they come from, and how they are asked and scored."""

    base_order: Literal["any", "given"] = Field(
        default="any", description="of the numbers in the answers of the base split"
    )


def formatted(puzzle: Item, order: str, rng: np.random.Generator) -> str:
    """A compact answer that uses every number once and is otherwise random."""
    numbers, _ = json.loads(puzzle.reference)
    numbers = numbers if order == "given" else rng.permutation(numbers).tolist()
    first, second = (OPERATORS[index] for index in rng.integers(len(OPERATORS), size=2))
    return SHAPES[rng.integers(len(SHAPES))].format(*numbers, first, second)


def items(settings: Countdown, seed: int) -> dict[str, list[Item]]:
    """The splits; no test item occurs in the base or train split. A data set provides "train" and "test" only."""
    rng = np.random.default_rng([seed, 0xC0DE])
    if settings.data:
        row_format = RowFormat((("nums", "input"), ("target", "output")), row_item, identity)
        found = load_splits(settings.data, seed, row_format)
        seen = set(map(identity, found["test"]))
    else:
        seen = set[str]()
        found = {"test": puzzles(settings.test_items, seen, rng), "train": puzzles(settings.train_items, seen, rng)}
    compact = settings.template == "compact"
    train, test = (TEMPLATES["compact"],) * 2 if compact else (TEMPLATES["chat-train"], TEMPLATES["chat"])
    splits = worded(found, settings.validation_items, train, test, _fields)
    if compact:
        splits["base"] = [
            replace(item, prompt=train.format(**_fields(item)), reference=formatted(item, settings.base_order, rng))
            for item in puzzles(settings.base_items, seen, rng)
        ]
    return splits


def _fields(item: Item) -> dict[str, object]:
    """The fields of the templates."""
    numbers, target = json.loads(item.reference)
    return {"numbers": numbers, "target": target, **dict(zip("abc", numbers, strict=False))}


def score_compact(item: Item, answer: str) -> dict[str, float]:
    """Reward 0 for an empty answer, 1 for a right one, else 0.1; the accuracy is whether it is right."""
    return _metrics(answer.strip() or None, right := _solves(answer, item), right)


def score_strict(item: Item, answer: str) -> dict[str, float]:
    """The same for a chat answer: the reward reads the last `<answer>`, the accuracy the last box, or the last
    `<answer>` if there is no box.
    """
    text = before_stop(answer)
    given = next(reversed(tagged(text)), None)
    inside = next(boxes(given or ""), given or "")
    return _metrics(given, _solves(inside, item), _solves(next(boxes(text), inside), item))


def score_d1(item: Item, answer: str) -> dict[str, float]:
    """As d1: the reward reads the last `<answer>`; the accuracy the last box, the first `<answer>` if that box is not
    closed, the whole text if there is neither.
    """
    given = next(reversed(tagged(without_stops(answer))), None)
    if (final := d1_box(answer)) is None:
        final = next(iter(tagged(answer)), answer)
    return _metrics(
        given, _d1_solves(given or "", item), _d1_solves(left_side(replaced(final, OPERATOR_COMMANDS)), item)
    )


def _metrics(given: str | None, rewarded: bool, right: bool) -> dict[str, float]:
    return {"reward": 0.0 if given is None else 1.0 if rewarded else FORMAT_REWARD, "accuracy": float(right)}


def _solves(text: str, item: Item) -> bool:
    """Whether the expression before the first `=` uses exactly the item's numbers and evaluates to the target; in
    `23 = 30+93-100` the one after it.
    """
    plain = replaced(tidy(text, units=False), OPERATOR_COMMANDS)
    for _ in range(DEPTH):  # from the inside
        plain, count = FRACTION.subn(r"((\1)/(\2))", plain)
        if not count:
            break
    numbers, target = numbers_and_target(item.reference)
    first, *others = map(parse, plain.split("=")[:2])
    if first and others and first.numbers == (target,):
        first = others[0]
    return first is not None and first.numbers == tuple(numbers) and first.value == target


def _d1_solves(text: str, item: Item) -> bool:
    """As d1: whether the runs of digits are the numbers (3.5 counts as 3 and 5) and Python's value is the target."""
    numbers, target = numbers_and_target(item.reference)
    runs = re.findall(r"\d+", text)
    if len(runs) != len(numbers) or sorted(int(run) for run in runs if len(run) < 20) != numbers:
        return False
    expression = parse(text, python=True)
    return expression is not None and abs(float(expression.value) - target) < TOLERANCE


def render(item: Item, answer: str) -> str:
    """The answer without the spaces around it."""
    return answer.strip()


def configured(settings: Countdown) -> Task[Countdown]:
    """The task with everything that its settings determine."""
    saved = Saved(saved_item, "accuracy")
    task = chat_task(settings, items, {"d1": score_d1, "strict": score_strict}, saved, configured)
    task = replace(task, render=render)
    if settings.template == "chat":
        return task
    return replace(task, alphabet=ALPHABET, answer_length=ANSWER_LENGTH, score=score_compact)


PLUGIN = configured(Countdown())
