"""What tasks for chat models share: settings, d1's wording of prompts, and the plug-in around a scorer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from pydantic import Field

from pipeline.tasks.base import Item, Profile, Saved, Task, TaskSettings, hold_out
from pipeline.tasks.data import Data

MATH_EXPERT = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in"
    " a \\boxed{{}}."
)
TRAIN_FORMAT = "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n\n"
TEST_FORMAT = (
    "Respond in the following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n"
    "\\boxed{{...}}\n</answer>"
)
"""Parts of d1's prompts; training and evaluation are worded differently there."""


class ChatSettings(TaskSettings):
    """Settings of every task that can be asked in chat messages."""

    profile: Profile = "strict"
    answer_length: int = Field(default=256, ge=1, description="tokens of a chat answer")
    validation_items: int = Field(default=0, ge=0, description="to select a round by; of a data set, training items")


class PuzzleSettings(ChatSettings):
    """Settings of a task whose items are generated, or rows of a data set; small models get single characters."""

    template: Literal["compact", "chat"] = "compact"
    data: Data | None = None
    base_items: int = Field(default=60_000, ge=1)
    train_items: int = Field(default=15_000, ge=1)
    test_items: int = Field(default=512, ge=1)


C = TypeVar("C", bound=ChatSettings)
Fields = Callable[[Item], Mapping[str, object]]


def worded(
    found: Mapping[str, Sequence[Item]], held_out: int, train_template: str, test_template: str, fields: Fields = vars
) -> dict[str, list[Item]]:
    """The splits with prompts made from templates; "validation" is held out of "train", which is "base", too."""

    def formatted(items: Sequence[Item], template: str) -> list[Item]:
        return [replace(item, prompt=template.format(**fields(item))) for item in items]

    kept, last = hold_out(found["train"], held_out)
    train, validation = formatted(kept, train_template), formatted(last, test_template)
    return {"base": train, "train": train, "validation": validation, "test": formatted(found["test"], test_template)}


def chat_task(
    settings: C,
    items: Callable[[C, int], dict[str, list[Item]]],
    scorers: Mapping[Profile, Callable[[Item, str], dict[str, float]]],
    saved: Saved,
    resolve: Callable[[C], Task[C]],
) -> Task[C]:
    """A task whose prompts are messages to a chat model."""
    return Task(
        settings=type(settings),
        alphabet="",
        answer_length=settings.answer_length,
        items=items,
        score=scorers[settings.profile],
        resolve=resolve,
        saved=saved,
        whole_text=settings.profile == "d1",
    )
