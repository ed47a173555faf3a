"""Countdown: from three numbers, each used exactly once, and + - * / make a target.

Items are generated (numbers and target in 1..100, solvable) or come from a data set (`task.data`). The reference of an
item to be solved is `[[a, b, c], target]`. The *base* split teaches the format only: its answers use the numbers
exactly once, in any order or as they are given (generated items can be solved in that order), and are otherwise random,
+ twice as often as the others: a base's most probable answer is a sum, not a matter of chance. With the template
`compact` prompt and answer are single characters of fixed number, for small models; with `chat` they are d1's prompts,
the first for training, the second for evaluation.
"""

import json
import re
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline.tasks.base import Item, Profile, Saved, Task, TaskSettings, hold_out
from pipeline.tasks.data import Data, Reading, splits
from pipeline.tasks.generators.countdown_puzzles import identity, numbers_and_target, puzzles, read, saved_item
from pipeline.tasks.parsing.answers import (
    before_stop,
    boxes,
    left_side,
    plain_operators,
    published_box,
    tagged,
    without_stops,
)
from pipeline.tasks.parsing.arithmetic import PYTHON, parse

TEMPLATES = {
    "compact": "{a:3d} {b:3d} {c:3d}={target:3d}>",
    "chat-train": (
        "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n\n"
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
        " an equals sign or the target number. For example: \\boxed{{a + b * c}}Respond in the following format:\n"
        "<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n\\boxed{{...}}\n</answer>\n\n"
        "Numbers: {numbers}\nTarget: {target}"
    ),
}
ALPHABET = "0123456789 +-*/()=>"
ANSWER_LENGTH = 15
SHAPES = (" {0:3d}{3} {1:3d} {4}{2:3d} ", "({0:3d}{3} {1:3d}){4}{2:3d} ", " {0:3d}{3}({1:3d} {4}{2:3d})")
"""Each digit, operator and parenthesis has its own place, or a space where there is none."""
OPERATORS = "++-*/"
Order = Literal["any", "given"]
TOLERANCE = 1e-5
FORMAT_REWARD = 0.1

FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
TYPESET = (("\\left", ""), ("\\right", ""), ("\\,", ""), ("×", "*"), ("÷", "/"), ("−", "-"), ("$", ""))


class Countdown(TaskSettings):
    """How many items to generate, or where they come from, and how they are put and judged."""

    template: Literal["compact", "chat"] = "compact"
    profile: Profile = "strict"
    data: Data | None = None
    base_order: Order = Field(default="any", description="of the numbers in the answers of the base split")
    base_items: int = Field(default=60_000, ge=1)
    train_items: int = Field(default=15_000, ge=1)
    test_items: int = Field(default=512, ge=1)
    validation_items: int = Field(default=0, ge=0, description="training items held out to select a round by")
    answer_length: int = Field(default=256, ge=1, description="tokens of a chat answer")


def formatted(puzzle: Item, order: Order, rng: np.random.Generator) -> str:
    """An answer that uses every number once, otherwise random."""
    numbers, _ = json.loads(puzzle.reference)
    numbers = numbers if order == "given" else rng.permutation(numbers).tolist()
    first, second = (OPERATORS[index] for index in rng.integers(len(OPERATORS), size=2))
    return SHAPES[rng.integers(len(SHAPES))].format(*numbers, first, second)


def items(settings: Countdown, seed: int) -> dict[str, list[Item]]:
    """The splits; no test item occurs in the base or train split. A data set gives training and test split only."""
    rng = np.random.default_rng([seed, 0xC0DE])
    if settings.data:
        found = splits(settings.data, seed, Reading((("nums", "input"), ("target", "output")), read, identity))
        seen = set(map(identity, found["test"]))
    else:
        seen = set[str]()
        found = {"test": puzzles(settings.test_items, seen, rng), "train": puzzles(settings.train_items, seen, rng)}
    train, test = ("chat-train", "chat") if settings.template == "chat" else ("compact", "compact")
    found["train"], found["validation"] = hold_out(found["train"], settings.validation_items)
    put = {split: [_put(item, train if split == "train" else test) for item in items] for split, items in found.items()}
    base = put["train"]
    if settings.template == "compact":
        made = puzzles(settings.base_items, seen, rng)
        base = [replace(_put(item, train), reference=formatted(item, settings.base_order, rng)) for item in made]
    return {"base": base, **put}


def score(compact: bool, profile: Profile, item: Item, answer: str) -> dict[str, float]:
    """Reward 0 without a closed answer, 1 for the target from exactly the numbers, else 0.1; and the accuracy.

    The reward reads the last `<answer>`. The accuracy reads the last box, else the last `<answer>`; with d1 as
    `_published_accuracy` says. A compact answer is all that was written.
    """
    numbers, target = numbers_and_target(item.reference)
    if compact:
        right = _solves(answer, numbers, target)
        return {"reward": _reward(answer.strip() or None, right), "accuracy": float(right)}
    if profile == "d1":
        given = next(reversed(tagged(without_stops(answer))), None)
        right = given is not None and _published_solves(given, numbers, target)
        return {"reward": _reward(given, right), "accuracy": float(_published_accuracy(answer, numbers, target))}
    answer = before_stop(answer)
    given = next(reversed(tagged(answer)), None)
    inside = given if given is None else next(boxes(given), given)
    final = next(boxes(answer), inside)
    right = inside is not None and _solves(inside, numbers, target)
    return {
        "reward": _reward(given, right),
        "accuracy": float(final is not None and _solves(final, numbers, target)),
    }


def _reward(given: str | None, right: bool) -> float:
    return 0.0 if given is None else 1.0 if right else FORMAT_REWARD


def _solves(text: str, numbers: list[int], target: int) -> bool:
    """Whether an expression, what follows `=` left out, uses exactly the numbers and comes to the target."""
    text = text[:2000]
    for typeset, plain in TYPESET:
        text = text.replace(typeset, plain)
    text = FRACTION.sub(r"((\1)/(\2))", plain_operators(text))
    expression = parse(text.split("=", 1)[0])
    return expression is not None and expression.numbers == tuple(numbers) and _near(expression.value, target)


def _published_accuracy(text: str, numbers: list[int], target: int) -> bool:
    """d1: the last box; where it is not closed, the first `<answer>`; where there is none, the whole text."""
    expression = published_box(text)
    if expression is None:
        expression = next(iter(tagged(text)), text)
    return _published_solves(left_side(plain_operators(expression)), numbers, target)


def _published_solves(text: str, numbers: list[int], target: int) -> bool:
    """d1: the runs of digits are the numbers (3.5 writes 3 and 5), and Python makes of it the target."""
    runs = re.findall(r"\d+", text)
    if len(runs) != len(numbers) or sorted(int(run) for run in runs if len(run) < 20) != numbers:
        return False
    expression = parse(text, operators=PYTHON, decimals=True)
    return expression is not None and _near(expression.value, target)


def _near(value: float, target: int) -> bool:
    return abs(value - target) < TOLERANCE


def render(item: Item, answer: str) -> str:
    """The text as it is."""
    return answer.strip()


def _put(item: Item, template: str) -> Item:
    """The item in the words of a template."""
    numbers, target = json.loads(item.reference)
    named = dict(zip("abc", numbers, strict=False))
    return replace(item, prompt=TEMPLATES[template].format(numbers=numbers, target=target, **named))


def configured(settings: Countdown) -> Task:
    """The task as its section asks for it."""
    compact = settings.template == "compact"
    return Task(
        settings=Countdown,
        alphabet=ALPHABET if compact else "",
        answer_length=ANSWER_LENGTH if compact else settings.answer_length,
        items=items,
        score=partial(score, compact, settings.profile),
        render=render,
        resolve=configured,
        saved=Saved(item=saved_item, accuracy="accuracy"),
        whole_text=settings.profile == "d1",
    )


PLUGIN = configured(Countdown())
