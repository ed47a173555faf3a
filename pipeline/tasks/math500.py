"""MATH500: competition problems whose answer is a short formula.

A row has the columns `problem` and `answer`, or instead of the latter `solution`, whose last box is the answer. The
reference of an item is that answer.
"""

from typing import ClassVar, Literal

from pipeline.tasks.base import Item, Saved, Task
from pipeline.tasks.chat import MATH_EXPERT, TEST_FORMAT, TRAIN_FORMAT, ChatSettings, chat_task, worded
from pipeline.tasks.data import Data, RowFormat, load_splits
from pipeline.tasks.data_files import Row
from pipeline.tasks.parsing.answers import CLOSE, OPEN, before_stop, boxes, d1_box, tagged, without_stops
from pipeline.tasks.parsing.hendrycks import hendrycks_equal
from pipeline.tasks.parsing.symbolic import equal
from pipeline.tasks.values import NoAnswerError, plain_text, text_of

TEMPLATES = {
    "chat-train": TRAIN_FORMAT + "\n" + MATH_EXPERT + " \n\n{prompt}",
    "chat": MATH_EXPERT + "\n" + TEST_FORMAT + '" \n\n\n{prompt}',
}
RIGHT_REWARD, FORMAT_REWARD = 2.0, 0.5


class Math500(ChatSettings):
    """Where the items come from, and how answers are scored. `test_items` are those on the Hub."""

    test_items: ClassVar[int] = 500
    template: Literal["chat"] = "chat"
    data: Data = Data(hub="ankner/math-500", test_hub="HuggingFaceH4/MATH-500")


def items(settings: Math500, seed: int) -> dict[str, list[Item]]:
    """Rows of the data set, in d1's words."""
    found = load_splits(settings.data, seed, RowFormat((("problem",), ("answer", "solution")), _item))
    return worded(found, settings.validation_items, TEMPLATES["chat-train"], TEMPLATES["chat"])


def score_d1(item: Item, answer: str) -> dict[str, float]:
    """As d1: both read the last box or, without any, the whole text. If that box is empty or not closed, the accuracy
    reads the first `<answer>`; if it is not closed, the reward reads the whole text.
    """
    text = without_stops(answer)
    box, final = d1_box(text), d1_answer(answer)
    rewarded = hendrycks_equal(text if box is None else box, item.reference)
    return _metrics(d1_format(text), rewarded, final is not None and hendrycks_equal(final, item.reference))


def score_strict(item: Item, answer: str) -> dict[str, float]:
    """The reward reads the last closed box that is not empty; the accuracy, without such a box, the last `<answer>`."""
    text = before_stop(answer)
    box = next((box for box in boxes(text) if box), "")
    final = box or next(reversed(tagged(text)), "")
    formatted = FORMAT_REWARD * any("\\boxed" in given for given in tagged(text))
    right = bool(final) and equal(final, item.reference)
    return _metrics(formatted, bool(box) and right, right)


def _metrics(formatted: float, rewarded: bool, right: bool) -> dict[str, float]:
    return {"reward": RIGHT_REWARD * rewarded + formatted, "accuracy": float(right)}


def d1_format(text: str) -> float:
    """As d1: 0.5 for an `<answer>`, closed or not, and 0.25 in any case.

    Another 0.25 is meant for a box in the answer, but d1 writes "\\boxed" with one backslash: a backspace and "oxed".
    """
    _, opened, after = text.partition(OPEN)
    inside = after.partition(OPEN)[0].partition(CLOSE)[0] if opened else text
    return 0.5 * bool(opened) + (0.5 if "\boxed" in inside else 0.25)


def d1_answer(text: str) -> str | None:
    """As d1: the last box or, without any, the whole text; if that box is empty or not closed, the first `<answer>`."""
    box = d1_box(text)
    return box or next(iter(tagged(text)), box)


def saved_item(question: str, reference: object) -> Item:
    """An item whose reference is a text or a number, in a box or not."""
    return Item(question, _unboxed(plain_text(reference, "reference")))


def _item(row: Row) -> Item:
    reference = plain_text(row.get("answer"), "answer", optional=True)
    if not reference:
        solution = plain_text(row.get("solution"), "solution", optional=True)
        unbraced = d1_box(solution) if "\\boxed " in solution else None
        reference = next((box for box in boxes(solution) if box), unbraced or "")
    if not reference:
        raise NoAnswerError("no answer, and no box in the solution")
    level = str(row.get("level") or "")
    group = level if level.startswith("Level") or not level else f"Level {level}"
    return Item(text_of(row["problem"], "problem"), _unboxed(reference).strip(), group)


def _unboxed(reference: str) -> str:
    """What is in the box, if the whole reference is one."""
    inside = next(boxes(reference), "")
    return inside if inside and reference in (f"\\boxed{{{inside}}}", f"$\\boxed{{{inside}}}$") else reference


def configured(settings: Math500) -> Task[Math500]:
    """The task with everything that its settings determine."""
    saved = Saved(saved_item, "accuracy")
    return chat_task(settings, items, {"d1": score_d1, "strict": score_strict}, saved, configured)


PLUGIN = configured(Math500())
