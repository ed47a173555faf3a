"""Tasks with two-character answers whose optimal law is a picture on {0..90}²: `checkerboard` and `pinwheel`.

    p^base(a, b) ∝ e^{-(u² + v² - uv)},  u = a/45 - 1,  v = b/45 - 1      (correlated, not flat)
    r(a, b)      = log picture(a, b) - log p^base(a, b) - (the lowest of these differences)

so that p* ∝ p^base e^{r/α} is the picture at α = 1. No reward is below 0, which `dtm` would count as 0. Each of the
91 values is one printable character.
"""

from functools import partial

import numpy as np
from pydantic import Field

from pipeline.tasks.base import Enumerated, Item, Task, TaskSettings

SIZE = 91
PROMPTS = {"train": ">", "test": "?"}
"""One prompt to train on; the held-out one asks for the same answers."""
VALUES = "".join(character for character in map(chr, range(33, 127)) if character not in PROMPTS.values())[:SIZE]


class Picture(TaskSettings):
    """How many pairs to pre-train the base model on (unless it is exact), and how many to draw in the evaluation."""

    base_items: int = Field(default=60_000, ge=1)
    test_items: int = Field(default=512, ge=1)


def coordinates() -> tuple[np.ndarray, np.ndarray]:
    """u and v in [-1, 1] at every pixel, [SIZE, SIZE] each."""
    axis = np.linspace(-1, 1, SIZE)
    u, v = np.meshgrid(axis, axis, indexing="ij")
    return u, v


def normalized(density: np.ndarray) -> np.ndarray:
    """density / Σ density"""
    total: float = density.sum()
    return density / total


def base_law() -> np.ndarray:
    """p^base(a, b) ∝ e^{-(u² + v² - uv)}, [SIZE, SIZE]"""
    u, v = coordinates()
    return normalized(np.exp(-(u**2 + v**2 - u * v)))


def items(settings: Picture, seed: int) -> dict[str, list[Item]]:
    """Pairs drawn from p^base for pre-training; one prompt to train on, and one, repeated, to evaluate."""
    drawn = np.random.default_rng([seed, 0x9D1D]).choice(SIZE * SIZE, size=settings.base_items, p=base_law().ravel())
    return {
        "base": [Item(PROMPTS["train"], VALUES[pair // SIZE] + VALUES[pair % SIZE]) for pair in drawn],
        "train": [Item(PROMPTS["train"], "")],
        "test": [Item(PROMPTS["test"], "")] * settings.test_items,
    }


def score(reward: np.ndarray, inside: np.ndarray, item: Item, answer: str) -> dict[str, float]:
    """r(a, b), and whether (a, b) is in the bright part of the picture; anything else gets the lowest reward."""
    pair = tuple(map(VALUES.find, answer))
    if len(pair) != 2 or -1 in pair:
        return {"reward": float(reward.min()), "inside": 0.0}
    return {"reward": float(reward[pair]), "inside": float(inside[pair])}


def render(item: Item, answer: str) -> str:
    """The pair of numbers."""
    return ", ".join(str(VALUES.find(character)) for character in answer)


def picture_task(picture: np.ndarray) -> Task[Picture]:
    """The task whose p* at α = 1 is `picture`, a positive [SIZE, SIZE] table."""
    base, picture = base_law(), normalized(picture)
    reward = np.log(picture) - np.log(base)
    reward -= reward.min()
    return Task(
        settings=Picture,
        alphabet=VALUES + "".join(PROMPTS.values()),
        answer_length=2,
        items=items,
        score=partial(score, reward, picture > picture.max() / 2),
        render=render,
        enumerated=Enumerated(values=VALUES, base=base, reward=reward),
    )
