"""GSM8K: word problems whose answer is a number.

A row has the columns `question` and `answer`; the answer ends in `#### 18`, or is a number. That is the reference.
"""

import math
import re
from fractions import Fraction
from typing import ClassVar, Literal

from pipeline.tasks.base import Item, Saved, Task
from pipeline.tasks.chat import MATH_EXPERT, TEST_FORMAT, TRAIN_FORMAT, ChatSettings, chat_task, worded
from pipeline.tasks.data import Data, RowFormat, load_splits
from pipeline.tasks.data_files import Row
from pipeline.tasks.parsing.answers import before_stop, boxes, short_boxes, tagged, without_stops
from pipeline.tasks.parsing.latex import NUMBER, number, tidy, value_of
from pipeline.tasks.values import NoAnswerError, plain_text, text_of

TEMPLATES = {
    "chat-train": TRAIN_FORMAT + "\n{prompt}",
    "chat": MATH_EXPERT + " \n" + TEST_FORMAT + "\n\n{prompt}",
}
HASHES = "####"
D1_REFERENCE = re.compile(r"####\s*\$?([\d,]+(?:\.\d+)?)")
D1_NUMBER = re.compile(r"-?\d+\.?\d*")
GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
MULTIPLE = re.compile(rf"\s*({'|'.join(POWERS)})s?\b", re.IGNORECASE)
PART_OF_MORE = re.compile(r"[:^_]|/(?!\s*[A-Za-z])|-\s*$|\bhalf\b|^[kKMB]\b")
"""What beside a number makes it a time, a ratio, a power, a range or a multiple."""
DOTS = re.compile(r"\.+")
ONE_LINE_FORMAT = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")
TURN = re.compile(r"</reasoning>\s*<answer>")
TAGS = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")
LONGEST = 2000


class Gsm8k(ChatSettings):
    """Where the items come from, and how answers are scored. `test_items` are those on the Hub."""

    test_items: ClassVar[int] = 1319
    template: Literal["chat"] = "chat"
    data: Data = Data(hub="openai/gsm8k", config="main")


def items(settings: Gsm8k, seed: int) -> dict[str, list[Item]]:
    """Rows of the data set, in d1's words."""
    found = load_splits(settings.data, seed, RowFormat((("question",), ("answer",)), _item))
    return worded(found, settings.validation_items, TEMPLATES["chat-train"], TEMPLATES["chat"])


def score_strict(item: Item, answer: str) -> dict[str, float]:
    """Accuracy: the number is the reference's. Reward: the sum of five terms, at most 4.

    0.125 for each of four tags that occurs once, less 0.001 for each character after the answer; 0.5 for the tags in
    order; 0.5 for nothing besides them; 0.5 for a whole number as answer; 2 for the right one.
    """
    text = before_stop(answer)
    given = next(reversed(tagged(text)), "")
    value, reference = read_number(next(boxes(given), given)), read_number(item.reference.split(HASHES)[-1])
    terms = (
        tag_counts(text),
        0.5 * soft_format(text),
        0.5 * strict_format(text),
        0.5 * (value is not None and value.denominator == 1),
        2.0 * (value is not None and value == reference),
    )
    right = reference is not None and strict_number(text) == reference
    return {"reward": math.fsum(terms), "accuracy": float(right)}


def score_d1(item: Item, answer: str) -> dict[str, float]:
    """The same terms as d1 computes them: `.` in its format patterns matches no line break, so that reasoning of
    several lines gets neither format term.
    """
    text = without_stops(answer)
    given = text.split("<answer>")[-1].split("</answer>")[0].strip()
    terms = (
        d1_tag_counts(text),
        0.5 * d1_soft_format(text),
        0.5 * bool(ONE_LINE_FORMAT.match(text)),
        0.5 * given.isdigit(),
        2.0 * (given == item.reference.split(HASHES)[-1].strip()),
    )
    reference = d1_reference(item.reference)
    right = reference is not None and d1_number(answer) == reference
    return {"reward": math.fsum(terms), "accuracy": float(right)}


def d1_number(text: str) -> float | None:
    """The first box that holds a number, read as a float or as the first number in it (`6,277` gives 6); without such
    a box the first `<answer>`, read as a float or as the last number in it.
    """
    for box in short_boxes(text):
        if (value := _float(box, 0)) is not None:
            return value
    return _float(next(iter(tagged(text)), ""), -1)


def d1_reference(reference: str) -> float | None:
    """The number after `####` without its commas; None for a negative one, which d1 counts no answer to as right."""
    if HASHES not in reference:
        value = read_number(reference)
        return None if value is None else float(value)
    found = D1_REFERENCE.search(reference)
    return float(found[1].replace(",", "")) if found else None


def strict_number(text: str) -> Fraction | None:
    """The number in the last box that is neither empty nor dots; without one, that in the last `<answer>`."""
    box = next((box for box in boxes(text) if box and not DOTS.fullmatch(box)), None)
    return read_number(box if box is not None else next(reversed(tagged(text)), ""))


def read_number(text: str) -> Fraction | None:
    """The value of the only number after the last `=`, with a unit or other words: `6,277`, `$-5`, `\\frac{1}{2}`,
    `3/4 cup`, `2 million`, `1.2e6`. None if there are several, as in `12:30`, or if it is a part of something else.
    """
    text = tidy(text[-LONGEST:].rsplit("=", 1)[-1])
    text = GROUPED.sub(lambda found: found[0].replace(",", ""), text)
    found = list(NUMBER.finditer(text))
    if len(found) != 1:
        return None
    value, before, after = value_of(found[0]), text[: found[0].start()], text[found[0].end() :]
    if multiple := MULTIPLE.match(after):
        value, after = value and value * 10 ** POWERS[multiple[1].lower()], after[multiple.end() :]
    return None if PART_OF_MORE.search(before) or PART_OF_MORE.search(after) else value


def d1_tag_counts(text: str) -> float:
    """As `tag_counts`, but the length penalty counts twice, and runs from the last `</answer>` that is on a line of its
    own, or from the start of the text if there is none; of two such lines in a row it sees the first only.
    """
    once = [text.count(tag) == 1 for tag in TAGS]
    count = 0.125 * once[0] + 0.125 * once[1]
    if once[2]:
        after = text.split(TAGS[3] + "\n")[-1]  # noqa: PLC0207  (rsplit finds others where two overlap)
        count = count + 0.125 - len(after) * 0.001
    if once[3]:
        count = count + 0.125 - (len(text.rsplit(TAGS[3], maxsplit=1)[-1]) - 1) * 0.001
    return count


def tag_counts(text: str) -> float:
    """0.125 for each tag that occurs once, less 0.001 for each character after the answer, but at least 0."""
    _, closed, after = text.rpartition("</answer>")
    count = 0.125 * sum(text.count(tag) == 1 for tag in TAGS)
    return max(0.0, count - 0.001 * len(after.strip())) if closed else count


def d1_soft_format(text: str) -> bool:
    """Whether `<reasoning>.*?</reasoning>\\s*<answer>.*?</answer>` matches at the start, in linear time."""
    if not text.startswith("<reasoning>"):
        return False
    first_line = len(text.partition("\n")[0])
    ends = [turn.end() for turn in TURN.finditer(text) if turn.start() < first_line]
    candidates = (*ends[:1], *ends[-1:])  # the turns between these end on the first line, too
    return any("</answer>" in text[end:].partition("\n")[0] for end in candidates)


def soft_format(text: str) -> bool:
    """`<reasoning>…</reasoning> <answer>…</answer>` at the start."""
    turn = TURN.search(text)
    return text.startswith("<reasoning>") and turn is not None and text.find("</answer>", turn.end()) >= 0


def strict_format(text: str) -> bool:
    """The tags on lines of their own, and nothing after them."""
    turn = text.find("\n</reasoning>\n<answer>\n")
    return text.startswith("<reasoning>\n") and turn >= 0 and text.rstrip().endswith("\n</answer>")


def saved_item(question: str, reference: object) -> Item:
    """An item whose reference is a number, a text with or without `####`, or null, for which no answer is right."""
    return Item(question, "" if reference is None else _reference(reference, "reference"))


def _float(text: str, position: int) -> float | None:
    """`text` as a number, or else the number at this position among those in it."""
    try:
        return float(text)
    except ValueError:
        numbers = D1_NUMBER.findall(text)
        return float(numbers[position]) if numbers else None


def _item(row: Row) -> Item:
    if not plain_text(row["answer"], "answer", optional=True):
        raise NoAnswerError("the answer is empty")
    return Item(text_of(row["question"], "question"), _reference(row["answer"], "answer"))


def _reference(value: object, column: str) -> str:
    """The number in an answer, with the `####` before it if there is one, and written without an exponent.

    Raises:
        ValueError: if what follows `####`, or else the whole answer, is more than a number.
    """
    _, hashes, last = plain_text(value, column).rpartition(HASHES)
    exact = number(tidy(last, units=False))
    if exact is None:
        raise ValueError(f"{column} must be a number or end in '#### number', not {last.strip()[-40:]!r}")
    written = last.strip()
    if re.search("[eE^]", written):
        written = str(exact.numerator) if exact.denominator == 1 else plain_text(float(exact), column)
    return f"{hashes} {written}" if hashes else written


def configured(settings: Gsm8k) -> Task[Gsm8k]:
    """The task with everything that its settings determine."""
    saved = Saved(saved_item, "accuracy")
    return chat_task(settings, items, {"d1": score_d1, "strict": score_strict}, saved, configured)


PLUGIN = configured(Gsm8k())
