"""MATH500: competition problems whose answer is a short formula.

A row has `problem` and `answer`, or `solution`, whose last box is the answer. That is the reference of an item.
"""

from typing import Any

from pipeline.tasks.base import Item, Profile, Task
from pipeline.tasks.chat import Chat, chat_task, in_words
from pipeline.tasks.data import Data, Reading, Values, splits
from pipeline.tasks.parsing.answers import before_stop, boxes, published_box, tagged, without_stops
from pipeline.tasks.parsing.latex import equal, published_equal

TEMPLATES = {
    "chat-train": (
        "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n\n\n"
        "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in"
        " a \\boxed{{}}. \n\n{prompt}"
    ),
    "chat": (
        "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in"
        " a \\boxed{{}}.\nRespond in the following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n"
        '\\boxed{{...}}\n</answer>" \n\n\n{prompt}'
    ),
}
RIGHT_REWARD, FORMAT_REWARD = 2.0, 0.5


class Math500(Chat):
    """Where the items come from, and how they are judged."""

    data: Data = Data(hub="ankner/math-500", test_hub="HuggingFaceH4/MATH-500")


def items(settings: Math500, seed: int) -> dict[str, list[Item]]:
    """Rows of the data set, in d1's words."""
    found = splits(settings.data, seed, Reading((("problem",), ("answer", "solution")), _read))
    return in_words(settings, found, TEMPLATES)


def score(profile: Profile, item: Item, answer: str) -> dict[str, float]:
    """Accuracy: the answer is the reference's. Reward: 2 if the last box is, 0.5 for a box in a closed `<answer>`."""
    if profile == "d1":
        text = without_stops(answer)
        box = published_box(text)
        rewarded = published_equal(text if box is None else box, item.reference)
        found = published_answer(answer)
        right = found is not None and published_equal(found, item.reference)
    else:
        text = before_stop(answer)
        box = next((box for box in boxes(text) if box), None)
        rewarded = box is not None and equal(box, item.reference)
        found = box if box is not None else next(reversed(tagged(text)), None)
        right = bool(found) and equal(str(found), item.reference)
    formatted = any("\\boxed" in given for given in tagged(text))
    reward = RIGHT_REWARD * rewarded + FORMAT_REWARD * formatted
    return {"reward": reward, "accuracy": float(right)}


def published_answer(text: str) -> str | None:
    """d1: the last box; where there is none, or it is empty or not closed, `<answer>`; else the whole text."""
    boxed = any(command in text for command in ("\\boxed", "\\fbox"))
    return (published_box(text) if boxed else None) or next(iter(tagged(text)), published_box(text))


def saved_item(question: str, reference: Any) -> Item:
    """An item from a text or a number."""
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        raise ValueError(f"reference must be a text, not {reference!r}")
    return Item(question, str(reference))


def _read(row: Values) -> Item:
    problem, reference = str(row["problem"]).strip(), row.get("answer")
    if reference is None:
        solution = str(row["solution"])
        reference = next(boxes(solution), published_box(solution) if "\\boxed " in solution else "")
    if not problem or not str(reference).strip():
        raise ValueError("the problem is empty" if not problem else "no answer, and no box in the solution")
    return Item(problem, str(reference).strip(), _group(row))


def _group(row: Values) -> str:
    level = str(row.get("level") or "")
    return level if level.startswith("Level") or not level else f"Level {level}"


def configured(settings: Math500) -> Task:
    """The task as its section asks for it."""
    return chat_task(settings, items, score, saved_item, resolve=configured)


PLUGIN = configured(Math500())
