"""What a task is: items, and one scorer that serves both the reward and the evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.errors import PipelineError
from pipeline.settings.validation import PluginSection

SPLITS = ("base", "train", "validation", "test", "hard")
"""What the base model learns from; prompts of the rollouts; held-out prompts by which a round is selected; those of the
headline; a harder set."""
HELD_OUT, OPTIONAL = ("test", "hard", "validation"), ("validation", "hard")

Profile = Literal["d1", "strict"]
"""How answers are read and judged: as published with d1, bit for bit, or with its mistakes repaired."""


class TaskSettings(PluginSection):
    """Base class of a task's section in params.yaml."""


@dataclass(frozen=True)
class Item:
    """One prompt. `group` labels a row of the evaluation's breakdown, e.g. "8 blanks"."""

    prompt: str
    reference: str
    group: str = ""


def hold_out(items: Sequence[Item], count: int) -> tuple[list[Item], list[Item]]:
    """The items to train on, and the last `count`, which are held out to select a round by."""
    if count >= len(items):
        raise PipelineError(f"task.validation_items is {count}, but the training split has {len(items)} items")
    return list(items[: len(items) - count]), list(items[len(items) - count :])


@dataclass(frozen=True)
class Enumerated:
    """Everything there is to know about a task of two-character answers.

    Attributes:
        values: the M characters.
        base: p^base(x_1, x_2), [M, M]; its conditionals are the exact base model.
        reward: r(x_1, x_2), [M, M], the same as `Task.score` gives.
    """

    values: str
    base: np.ndarray
    reward: np.ndarray


@dataclass(frozen=True)
class Saved:
    """How saved generations of a task are scored again (`python -m pipeline.stages.score`).

    Attributes:
        item: (question, reference), as they were saved -> the item. ValueError says what is wrong with them.
        accuracy: the metric of `Task.score` that is the accuracy.
        cells: how many cells of an item the accuracy counts, where it is a share of cells.
    """

    item: Callable[[str, Any], Item]
    accuracy: str
    cells: Callable[[Item], int] | None = None


@dataclass(frozen=True)
class Task:
    """A task is composed of functions; it is torch-free, so that it can be checked before anything runs.

    Stages get it from `plugins.resolve_task`, with everything that its section of params.yaml decides.

    Attributes:
        settings: the schema of its section in params.yaml.
        alphabet: every character of prompts and answers, for embedded models (one token each); "" for a task whose
            prompts are messages to a language model.
        answer_length: L, the number of answer tokens.
        end: for embedded models, the character outside the alphabet that fills up answers longer than L; "" where there
            are none.
        items: (settings, seed) -> the items of each split in `SPLITS`; "validation" and "hard" may be left out.
        score: (item, answer) -> metrics. Must hold "reward", a finite number; larger is better. It sees the
            decoded answer only, up to its end, and may do anything: nothing differentiates it.
        render: (item, answer) -> a picture in plain text for the report.
        enumerated: the whole problem as tables, where it is that small; p*, and KL to it, are exact then.
        resolve: settings -> this task with the alphabet, answer_length, score and render that they ask for; None
            where they decide nothing but the items.
        saved: how saved generations are read, where there are any in the field.
        whole_text: `score` sees the first stop token of a chat answer and what follows it (d1's rule), not what stands
            before it only.
    """

    settings: type[TaskSettings]
    alphabet: str
    answer_length: int
    items: Callable[[Any, int], Mapping[str, Sequence[Item]]]
    score: Callable[[Item, str], Mapping[str, float]]
    render: Callable[[Item, str], str]
    enumerated: Enumerated | None = None
    resolve: Callable[[Any], "Task"] | None = None
    saved: Saved | None = None
    whole_text: bool = False
    end: str = ""

    def characters(self, lengths: Sequence[int]) -> str:
        """The alphabet of a base that learns answers of these lengths: with `end` if some are longer than L."""
        return self.alphabet + (self.end if max(lengths, default=0) > self.answer_length else "")

    def filled(self, answer: str, length: int) -> str:
        """The answer with ends up to a length."""
        return answer + self.end * (length - len(answer))

    def shown(self, answer: str) -> str:
        """What stands before the first end; all where there is none."""
        return answer.split(self.end, maxsplit=1)[0] if self.end else answer

    @property
    def chat(self) -> bool:
        """Whether prompts are put by a checkpoint's chat template."""
        return not self.alphabet
