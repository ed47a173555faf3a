"""What the tasks share whose prompts are always written for a chat model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from pydantic import Field

from pipeline.tasks.base import Item, Profile, Saved, Task, TaskSettings, hold_out

TRAIN, TEST = "chat-train", "chat"
"""Ids of d1's templates: the words of its training, and of its evaluation."""


class Chat(TaskSettings):
    """How the items are put and judged."""

    template: Literal["chat"] = "chat"
    profile: Profile = "strict"
    answer_length: int = Field(default=256, ge=1, description="tokens of an answer")
    validation_items: int = Field(default=0, ge=0, description="training items held out to select a round by")


def in_words(
    settings: Chat, found: Mapping[str, Sequence[Item]], templates: Mapping[str, str]
) -> dict[str, list[Item]]:
    """Training items, which also are the base split, in the words of d1's training; the rest in its evaluation's."""
    train, validation = hold_out(found["train"], settings.validation_items)
    put = {"train": _put(train, templates[TRAIN])}
    put |= {"validation": _put(validation, templates[TEST]), "test": _put(found["test"], templates[TEST])}
    return {"base": put["train"], **put}


def _put(items: Sequence[Item], template: str) -> list[Item]:
    return [replace(item, prompt=template.format(prompt=item.prompt)) for item in items]


def chat_task(
    settings: Any,
    items: Callable[[Any, int], dict[str, list[Item]]],
    score: Callable[[Profile, Item, str], dict[str, float]],
    saved_item: Callable[[str, Any], Item],
    resolve: Callable[[Any], Task],
) -> Task:
    """A task of texts, judged by its metric `accuracy`."""
    return Task(
        settings=type(settings),
        alphabet="",
        answer_length=settings.answer_length,
        items=items,
        score=partial(score, settings.profile),
        render=as_it_is,
        resolve=resolve,
        saved=Saved(item=saved_item, accuracy="accuracy"),
        whole_text=settings.profile == "d1",
    )


def as_it_is(item: Item, answer: str) -> str:
    """The text as it is."""
    return answer
