"""Tasks of reasoning-gym (arXiv 2505.24760): more than a hundred procedural generators, each with its verifier.

    task: {name: reasoning_gym, dataset: spell_backward, config: {min_word_len: 5, max_word_len: 5}}

reasoning-gym makes entry i of a data set from the random seed `seed + i`, so data sets with nearby seeds share entries.
Here each split has a seed of its own, a hash of the run's seed and the split's name, and an entry whose question has
occurred before is left out. An item's reference is JSON: where its entry comes from, and the answer. The verifier gets
the entry itself, generated again, since what entries hold is not always JSON; it runs in the reward process.

With the template `chat` the question is a message, and the verifier reads the last `<answer>`. With `compact`, for
embedded models, the wording that all questions share is cut off, and prompts and answers are padded with spaces. The
answers of the compact *base* split are those of other items, except for the share `base_right`: such a base knows what
answers look like, and the rest has to be learnt from the reward.
"""

import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import takewhile
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field

from pipeline.errors import PipelineError
from pipeline.plugins import nearest
from pipeline.tasks.base import Item, Task
from pipeline.tasks.chat import TRAIN_FORMAT, ChatSettings
from pipeline.tasks.parsing.answers import before_stop, tagged

INSTALL = "task 'reasoning_gym' needs the package reasoning-gym: pip install -c constraints.txt -e '.[gym]'"
ALPHABET = "".join(map(chr, range(32, 127)))
SEPARATOR = ">"
TRIES = 20
"""Entries looked at for each item that is wanted: small data sets repeat their questions."""
RUNS_CODE = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\((?:user_)?answer\b")
"""Found in the source of a verifier that evaluates the model's text as Python; sympy's parser does so, too."""


class ReasoningGym(ChatSettings):
    """Which data set, with which of its own options, and how many items of it."""

    profile: Literal["strict"] = "strict"
    template: Literal["compact", "chat"] = "chat"
    dataset: str
    config: dict[str, Any] = Field(default={}, description="options of the data set, without seed and size")
    answer_length: int = Field(default=256, ge=1, description="tokens of a chat answer, characters of a compact one")
    train_items: int = Field(default=5000, ge=1)
    test_items: int = Field(default=512, ge=1)
    base_right: float = Field(default=0.0, ge=0, le=1, description="share of right answers in the compact base split")
    allow_eval: bool = Field(default=False, description="take a verifier that evaluates the model's text as Python")


def open_dataset(settings: ReasoningGym, seed: int = 0, size: int = 1) -> Any:
    """A data set of reasoning-gym.

    Raises:
        PipelineError: if the package is missing, there is no such data set, it refuses its options, or its verifier
            evaluates text as code and `allow_eval` is not set.
    """
    try:
        from reasoning_gym.factory import DATASETS, create_dataset  # noqa: PLC0415  (optional, and takes 2 s)
    except ImportError as error:
        raise PipelineError(INSTALL) from error
    name, config = settings.dataset, settings.config
    if name not in DATASETS:
        raise PipelineError(f"task.dataset: unknown data set '{name}': {nearest(name, DATASETS)}")
    kind, options = DATASETS[name]
    known = {field.name for field in dataclasses.fields(options)} - {"seed", "size"}
    if wrong := sorted(config.keys() - known):
        raise PipelineError(f"task.config: '{name}' has no option '{wrong[0]}': {nearest(wrong[0], known)}")
    if not settings.allow_eval and RUNS_CODE.search(inspect.getsource(kind)):
        problem = f"task.dataset: the verifier of '{name}' evaluates the model's text as Python code"
        raise PipelineError(f"{problem}: take another data set, or set task.allow_eval: true in a container")
    try:
        return create_dataset(name, seed=seed, size=size, **config)
    except Exception as error:  # a data set checks its options in its own way
        raise PipelineError(f"task.config: '{name}' refuses {json.dumps(config)[:200]}: {error}") from error


def drawn(settings: ReasoningGym, split: str, count: int, seed: int, seen: set[str]) -> Iterator[Item]:
    """`count` items of a split whose questions are not in `seen`; theirs are added to it."""
    start = int.from_bytes(hashlib.sha256(f"{seed} {split}".encode()).digest()[:4]) // 2
    size, found = count * TRIES, 0
    dataset = open_dataset(settings, start, size)
    for index in range(size if count else 0):
        entry = dataset[index]
        if (question := str(entry["question"])) in seen:
            continue
        seen.add(question)
        reference = {"seed": start, "size": size, "index": index, "answer": entry["answer"]}
        yield Item(question, json.dumps(reference, default=str), settings.dataset)
        if (found := found + 1) == count:
            break
    if found < count:
        problem = f"'{settings.dataset}' has only {found} new questions for the split '{split}', not {count}"
        raise PipelineError(f"task.dataset: {problem}: ask for fewer items, or widen task.config")


def items(settings: ReasoningGym, seed: int) -> dict[str, list[Item]]:
    """The splits. No question occurs twice; those of the base split are the training split's."""
    seen: set[str] = set()
    counts = {"test": settings.test_items, "validation": settings.validation_items, "train": settings.train_items}
    found = {split: list(drawn(settings, split, count, seed, seen)) for split, count in counts.items()}
    if settings.template == "compact":
        return compact(settings, found, seed)
    worded = {
        split: [replace(item, prompt=f"{TRAIN_FORMAT}{item.prompt}") for item in of_split]
        for split, of_split in found.items()
    }
    return {**worded, "base": worded["train"]}


def compact(settings: ReasoningGym, found: Mapping[str, Sequence[Item]], seed: int) -> dict[str, list[Item]]:
    """The same items with prompts of one length, and the base split."""
    questions = [item.prompt for of_split in found.values() for item in of_split]
    first = _shared(questions)
    last = min(_shared([text[::-1] for text in questions]), min(map(len, questions)) - first)
    texts = {text: " ".join(text[first : len(text) - last].split()) for text in questions}
    width = max(map(len, texts.values()))
    made = {
        split: [replace(item, prompt=f"{_plain(texts[item.prompt], 'question'):>{width}}{SEPARATOR}") for item in rows]
        for split, rows in found.items()
    }
    answers = [_padded(settings, item) for item in made["train"]]
    rng = np.random.default_rng([seed, 0x6E77])
    others = np.roll(order := rng.permutation(len(answers)), 1)[np.argsort(order)]  # never the item's own answer
    right = rng.random(len(answers)) < settings.base_right
    chosen = np.where(right, np.arange(len(answers)), others)
    base = [replace(item, reference=answers[index]) for item, index in zip(made["train"], chosen, strict=True)]
    return {**made, "base": base}


def _shared(texts: Sequence[str]) -> int:
    """How many characters all texts begin with."""
    return len(list(takewhile(lambda characters: len(set(characters)) == 1, zip(*texts, strict=False))))


def _padded(settings: ReasoningGym, item: Item) -> str:
    """The answer of an item with `answer_length` characters."""
    answer = _plain(str(json.loads(item.reference)["answer"]), "answer")
    if len(answer) > settings.answer_length:
        problem = f"'{settings.dataset}' has the answer {answer[:80]!r} of {len(answer)} characters"
        raise PipelineError(f"task.answer_length is {settings.answer_length}, but {problem}")
    return answer.ljust(settings.answer_length)


def _plain(text: str, what: str) -> str:
    if not set(text) <= set(ALPHABET):
        problem = f"the {what} {text[:80]!r} has other characters than printable ASCII"
        raise PipelineError(f"task.template: compact: {problem}; take template: chat")
    return text


def verify(settings: ReasoningGym, item: Item, answer: str) -> dict[str, float]:
    """The verifier's score of an answer, and whether it is a full one (1).

    A text on which the verifier raises an exception scores 0: reasoning-gym's verifiers do not expect every text.
    """
    dataset, entry = _entry(settings.model_dump_json(), item.reference)
    try:
        score = float(dataset.score_answer(answer, entry))
    except Exception:  # of the verifier
        score = 0.0
    return {"reward": score, "accuracy": float(score >= 1)}


def verify_compact(settings: ReasoningGym, item: Item, answer: str) -> dict[str, float]:
    """The score of the data set's verifier; the spaces that fill an answer up do not count."""
    return verify(settings, item, answer.rstrip())


def verify_chat(settings: ReasoningGym, item: Item, answer: str) -> dict[str, float]:
    """The score of the data set's verifier for the last closed `<answer>`; 0 without one."""
    given = next(reversed(tagged(before_stop(answer))), None)
    return {"reward": 0.0, "accuracy": 0.0} if given is None else verify(settings, item, given)


@lru_cache(maxsize=4096)
def _entry(settings: str, reference: str) -> tuple[Any, Any]:
    """(data set, entry) of an item. PipelineError if this reasoning-gym generates another one than when it was made."""
    made = json.loads(reference)
    dataset = _dataset(settings, made["seed"], made["size"])
    entry = dataset[made["index"]]
    if json.loads(json.dumps(entry["answer"], default=str)) != made["answer"]:
        problem = "this version of reasoning-gym generates other items than those of the run"
        raise PipelineError(f"{problem}: delete its items/ and run again")
    return dataset, entry


@cache
def _dataset(settings: str, seed: int, size: int) -> Any:
    return open_dataset(ReasoningGym.model_validate_json(settings), seed, size)


def configured(settings: ReasoningGym) -> Task[ReasoningGym]:
    """The task with everything that its settings determine."""
    small = settings.template == "compact"
    return Task(
        settings=ReasoningGym,
        alphabet=ALPHABET if small else "",
        answer_length=settings.answer_length,
        items=items,
        score=partial(verify_compact if small else verify_chat, settings),
        check=cast(Any, open_dataset),
        own_process=True,
        resolve=configured,
    )


PLUGIN = configured(ReasoningGym(dataset="spell_backward"))
