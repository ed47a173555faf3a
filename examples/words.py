"""A task and its reward in one file outside the package: three-letter words, rewarded for alphabetical order.

    task: {name: examples.words}        # in params.yaml: any module that Python can import

The base model is trained on words whose letters are drawn independently, "a" most often. There are only 27 words, so
the tests enumerate them to check that training converges to p* ∝ p^base e^{r/α}.
"""

import random
from itertools import pairwise

from pydantic import Field

from pipeline.tasks.base import Item, Task, TaskSettings

LETTERS = "abc"


class Words(TaskSettings):
    """Keys of the section `task` besides `name`."""

    base_items: int = Field(default=4000, ge=1)
    skew: float = Field(default=0.5, gt=0, le=1, description="chance of 'a'; the other letters share the rest")


def items(settings: Words, seed: int) -> dict[str, list[Item]]:
    rng = random.Random(seed)
    rest = (1 - settings.skew) / 2
    words = ["".join(rng.choices(LETTERS, [settings.skew, rest, rest], k=3)) for _ in range(settings.base_items)]
    return {
        "base": [Item(">", word) for word in words],
        "train": [Item(">", "abc")],
        "test": [Item("?", "abc")],  # never a training prompt
        "hard": [],
    }


def score(item: Item, answer: str) -> dict[str, float]:
    """Share of neighbouring letters that are in alphabetical order."""
    ordered = sum(first < second for first, second in pairwise(answer))
    return {"reward": ordered / 2, "exact_match": float(answer == item.reference)}


def render(item: Item, answer: str) -> str:
    return answer


PLUGIN = Task(settings=Words, alphabet=LETTERS + ">?", answer_length=3, items=items, score=score, render=render)
