"""What a task is: items, and one scorer that serves both as the reward and in the evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Literal, TypeVar

import numpy as np

from pipeline.errors import PipelineError
from pipeline.settings.validation import PluginSection

SPLITS = ("base", "train", "validation", "test", "hard")
"""`base` trains the base model, `train` has the prompts of rollouts. Held out are `validation`, to select a round by,
`test`, for the headline numbers, and `hard`, a harder set."""
HELD_OUT, OPTIONAL = ("test", "hard", "validation"), ("base", "validation", "hard")

Profile = Literal["d1", "strict"]
"""How answers are parsed and scored: exactly as d1's code does, or with its bugs fixed."""

TaskSettings = PluginSection
"""Base class of a task's section in params.yaml."""

S = TypeVar("S", bound=TaskSettings)


@dataclass(frozen=True)
class Item:
    """One prompt. `group` labels a row in the evaluation's breakdown, e.g. "8 blanks". `start` is the answer as it
    starts, with a `Task.hole` for each token to fill in; "" if the whole answer is. `source` names its place in a data
    set, e.g. "x.jsonl, line 3", for errors."""

    prompt: str
    reference: str
    group: str = ""
    start: str = ""
    source: str = field(default="", compare=False)


def name_of(index: int, split: str, item: Item) -> str:
    """An item in an error message, with its place in the data set if that is known."""
    return f"{index} of the split '{split}'" + (f" ({item.source})" if item.source else "")


def hold_out(items: Sequence[Item], count: int) -> tuple[list[Item], list[Item]]:
    """Split training items into those to train on and the last `count`, the validation split."""
    if count >= len(items):
        raise PipelineError(
            f"task.validation_items is {count}, but the training split has {len(items)} items: ask for fewer, or for 0"
        )
    return list(items[: len(items) - count]), list(items[len(items) - count :])


@dataclass(frozen=True)
class Enumerated:
    """A task with answers of two of the M characters `values`, written out as tables.

    `base` is p^base(x_1, x_2), [M, M]; its conditionals are the exact base model. `reward` is the r(x_1, x_2), [M, M],
    that `Task.score` returns.
    """

    values: str
    base: np.ndarray
    reward: np.ndarray


@dataclass(frozen=True)
class Saved:
    """How saved generations of a task are scored again (`python -m pipeline.stages.score`).

    `item` makes an item from (question, reference), ValueError if they are malformed; `accuracy` is the metric of
    `Task.score` that counts; `cells` gives the number of cells of an item, if that metric is a share of cells.
    """

    item: Callable[[str, object], Item]
    accuracy: str
    cells: Callable[[Item], int] | None = None


EXACT = ("kl", "kl_jump_1", "kl_jump_2")
"""The metrics of `evaluation.exact_kl`, which enumerated tasks have."""
RESERVED = (*EXACT, "cpu_seconds", "groups", "rollouts", "round", "samples")
"""What else reports and tables write beside metrics."""


def is_statistic(name: str) -> bool:
    """Whether the name is that of a statistic of metrics (`evaluation.summary`)."""
    return name == "n" or name.endswith("_se")


def is_reserved(name: str) -> bool:
    """Whether no metric may have the name."""
    return is_statistic(name) or name in RESERVED


def need_base_items(items: Sequence[Item]) -> None:
    """PipelineError if there is nothing that a base could learn from."""
    if not items:
        wanted = "which a base without base.path or base.data learns from"
        raise PipelineError(f"the task has no items in the split 'base', {wanted}")


@dataclass(frozen=True)
class Task(Generic[S]):
    """A task, composed of functions. It never imports PyTorch, so the Snakefile can check it before anything runs.

    Stages get it from `plugins.resolve_task`, which applies its section of params.yaml.

    Attributes:
        settings: the schema of its section in params.yaml.
        alphabet: for embedded models, every character of prompts and answers (one token each); "" if the prompts are
            messages to a chat model.
        answer_length: L, the number of answer tokens.
        items: (settings, seed) -> the items of each split in `SPLITS`; those in `OPTIONAL` may be left out.
        score: (item, answer) -> metrics, among them "reward": a finite number, larger is better. It gets the decoded
            answer up to its end. It need not be differentiable.
        render: (item, text) -> plain text for the report, of the prompt, the reference or an answer; by default the
            text itself. If prompt and reference are rendered in one shape, as many characters in each line, the report
            lays them and the answer over each other: it marks what the prompt gives, and what is not as the reference.
        marks: (item, text) -> what a reader of the report should see at a glance: name -> places of characters of
            `render(item, text)`. The first name is underlined, the second coloured, the third framed, and a legend
            names them. None if there is nothing of that kind.
        enumerated: the whole problem as tables, if it is that small; p* and the KL divergence to it are then exact.
        resolve: settings -> this task with the fields that the settings determine; None if they determine only the
            items.
        saved: how saved generations are read, if there are any for this task.
        whole_text: `score` gets the full chat answer, including the first stop token and what follows it, as in d1. A
            task that replaces `score` of another one sets this itself.
        check: settings -> None; PipelineError for what only opening the data can tell. Called before anything runs.
        judge: (items, answers) -> more metrics of all answers of an evaluation to one split, for what no reward should
            see, takes long, or compares answers with each other. None if there are none.
        own_process: whether `score` runs code from elsewhere, in a process that can be killed, as a user's does.
        end: for embedded models, the character outside the alphabet that pads answers longer than L; "" if answers
            have one length only.
        hole: the character, outside the alphabet, that stands for one masked token in `Item.start`: answers start
            partly revealed and are as long as their start, at most L tokens; only the holes are sampled and learnt. ""
            if answers start empty.
    """

    settings: type[S]
    alphabet: str
    answer_length: int
    items: Callable[[S, int], Mapping[str, Sequence[Item]]]
    score: Callable[[Item, str], Mapping[str, float]]
    render: Callable[[Item, str], str] = lambda item, answer: answer
    marks: Callable[[Item, str], Mapping[str, Sequence[int]]] | None = None
    enumerated: Enumerated | None = None
    resolve: "Callable[[S], Task[S]] | None" = None
    saved: Saved | None = None
    whole_text: bool = False
    check: Callable[[S], object] | None = None
    judge: Callable[[Sequence[Item], Sequence[str]], Sequence[Mapping[str, float]]] | None = None
    own_process: bool = False
    end: str = ""
    hole: str = ""

    def __post_init__(self) -> None:
        """TypeError for a field of another type, as soon as a user's module is imported."""
        if not (isinstance(self.settings, type) and issubclass(self.settings, PluginSection)):
            raise TypeError("settings must be a subclass of pipeline.tasks.base.TaskSettings")
        for name in ("items", "score", "render", "marks", "resolve", "check", "judge"):
            value, optional = getattr(self, name), name not in ("items", "score", "render")
            if not (callable(value) or (optional and value is None)):
                raise TypeError(f"{name} must be a function{' or None' * optional}, not {value!r}")
        types = {"alphabet": str, "answer_length": int, "enumerated": Enumerated | None, "saved": Saved | None}
        for name, wanted in {**types, "end": str, "hole": str, "whole_text": bool, "own_process": bool}.items():
            if not isinstance(value := getattr(self, name), wanted):
                raise TypeError(f"{name} must be {getattr(wanted, '__name__', wanted)}, not {value!r}")
        if self.answer_length < 1:
            raise TypeError(f"answer_length must be a number of tokens, not {self.answer_length}")
        if len(set(self.alphabet)) < len(self.alphabet):
            raise TypeError(f"alphabet has a character twice: {self.alphabet!r}")
        if len(self.end) > 1 or (self.end and self.end in self.alphabet):
            raise TypeError("end must be one character outside the alphabet")
        if len(self.hole) > 1 or (self.hole and (self.hole in self.alphabet or self.enumerated)):
            raise TypeError("hole must be one character outside the alphabet, of a task that is not enumerated")

    def characters(self, lengths: Sequence[int]) -> str:
        """The alphabet of a base model trained on answers of these lengths: includes `end` if any exceeds L."""
        return self.alphabet + (self.end if max(lengths, default=0) > self.answer_length else "")

    def filled(self, answer: str, length: int) -> str:
        """The answer padded with `end` to a length."""
        return answer + self.end * (length - len(answer))

    def shown(self, answer: str) -> str:
        """The answer up to its first `end`."""
        return answer.split(self.end, maxsplit=1)[0] if self.end else answer

    @property
    def score_function(self) -> Callable[..., object]:
        """`score` without the arguments that a `partial` binds."""
        return self.score.func if isinstance(self.score, partial) else self.score

    @property
    def chat(self) -> bool:
        """Whether prompts are formatted with a checkpoint's chat template."""
        return not self.alphabet
