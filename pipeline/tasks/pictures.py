"""Answers of two characters whose optimum is a picture on {0..90}²: what `checkerboard` and `pinwheel` share.

    p^base(a, b) ∝ e^{-(u² + v² - uv)},  u = a/45 - 1,  v = b/45 - 1      (correlated, not flat)
    r(a, b)      = log picture(a, b) - log p^base(a, b)

so that p* ∝ p^base e^{r/α} is the picture at α = 1. A value is one printable character.
"""

from functools import partial

import numpy as np
from pydantic import Field

from pipeline.tasks.base import Enumerated, Item, Task, TaskSettings

SIZE = 91
PROMPTS = {"train": ">", "test": "?"}
"""There is one prompt to learn from; the held-out one asks for the same."""
VALUES = "".join(character for character in map(chr, range(33, 127)) if character not in PROMPTS.values())[:SIZE]


class Picture(TaskSettings):
    """How many pairs the base model learns from, where it is pre-trained, and how many are drawn to evaluate."""

    base_items: int = Field(default=60_000, ge=1)
    test_items: int = Field(default=512, ge=1)


def coordinates() -> tuple[np.ndarray, np.ndarray]:
    """u and v in [-1, 1] at every point of the grid, [SIZE, SIZE] each."""
    axis = np.linspace(-1, 1, SIZE)
    u, v = np.meshgrid(axis, axis, indexing="ij")
    return u, v


def normalized(density: np.ndarray) -> np.ndarray:
    """density / Σ density"""
    total: float = density.sum()
    return density / total


def base_law() -> np.ndarray:
    """p^base(a, b) ∝ e^{-(u² + v² - uv)}"""
    u, v = coordinates()
    return normalized(np.exp(-(u**2 + v**2 - u * v)))


def items(settings: Picture, seed: int) -> dict[str, list[Item]]:
    """Pairs drawn from p^base for pre-training; one prompt to train on, and one, repeated, to evaluate."""
    drawn = np.random.default_rng([seed, 0x9D1D]).choice(SIZE * SIZE, size=settings.base_items, p=base_law().ravel())
    return {
        "base": [Item(PROMPTS["train"], VALUES[pair // SIZE] + VALUES[pair % SIZE]) for pair in drawn],
        "train": [Item(PROMPTS["train"], "")],
        "test": [Item(PROMPTS["test"], "")] * settings.test_items,
        "hard": [],
    }


def score(reward: np.ndarray, inside: np.ndarray, item: Item, answer: str) -> dict[str, float]:
    """r(a, b), and whether (a, b) lies in the bright part of the picture; anything else scores the least reward."""
    pair = tuple(map(VALUES.find, answer))
    if len(pair) != 2 or -1 in pair:
        return {"reward": float(reward.min()), "inside": 0.0}
    return {"reward": float(reward[pair]), "inside": float(inside[pair])}


def render(item: Item, answer: str) -> str:
    """The pair of numbers."""
    return ", ".join(str(VALUES.find(character)) for character in answer)


def picture_task(picture: np.ndarray) -> Task:
    """The task whose p* at α = 1 is `picture`, a positive [SIZE, SIZE] table."""
    base, picture = base_law(), normalized(picture)
    reward = np.log(picture) - np.log(base)
    return Task(
        settings=Picture,
        alphabet=VALUES + "".join(PROMPTS.values()),
        answer_length=2,
        items=items,
        score=partial(score, reward, picture > picture.max() / 2),
        render=render,
        enumerated=Enumerated(values=VALUES, base=base, reward=reward),
    )
