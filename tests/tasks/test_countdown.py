"""Generated items: solvable, distinct, held out, reproducible; answers that are right in form only."""

import re
from itertools import permutations, product

import pytest

from pipeline.tasks.base import Item
from pipeline.tasks.countdown import ALPHABET, ANSWER_LENGTH, PLUGIN, Countdown, items
from pipeline.tasks.generators.countdown_puzzles import numbers_and_target
from pipeline.tasks.parsing.arithmetic import parse
from pipeline.text.tokenizer import character_tokenizer, encode
from tests.conftest import task_of

SETTINGS = Countdown(base_items=400, train_items=300, test_items=60)
SHAPES = ("({0}{3}{1}){4}{2}", "{0}{3}({1}{4}{2})")


@pytest.fixture(scope="module")
def splits():
    return items(SETTINGS, seed=3)


def solvable(numbers: list[int], target: int) -> bool:
    for order, first, second, shape in product(permutations(numbers), "+-*/", "+-*/", SHAPES):
        expression = parse(shape.format(*order, first, second))
        if expression and abs(expression.value - target) < 1e-5:
            return True
    return False


def test_items_are_solvable_and_in_range(splits):
    for item in (*splits["test"], *splits["train"][:60]):
        numbers, target = numbers_and_target(item.reference)
        assert len(numbers) == 3 and all(1 <= n <= 100 for n in numbers) and 1 <= target <= 100
        assert solvable(numbers, target)


def test_items_are_distinct_and_held_out(splits):
    """As multisets: the same numbers in another order are the same item."""

    def identity(prompt: str) -> tuple:
        numbers, target = prompt.rstrip(">").split("=")
        return (*sorted(map(int, numbers.split())), int(target))

    held_out, train, base = ({identity(item.prompt) for item in splits[name]} for name in ("test", "train", "base"))
    assert (len(held_out), len(train), len(base)) == (60, 300, 400)
    assert not held_out & (train | base)


def test_same_seed_same_items_other_seed_other_items(splits):
    assert items(SETTINGS, seed=3) == splits
    assert items(SETTINGS, seed=4)["test"] != splits["test"]


def test_base_answers_are_right_in_form_only(splits):
    rewards = []
    for item in splits["base"]:
        numbers, target = item.prompt.rstrip(">").split("=")
        reference = f"[[{', '.join(numbers.split())}], {int(target)}]"
        expression = parse(item.reference)
        used = expression.numbers if expression else tuple(sorted(map(int, numbers.split())))  # a division by 0
        assert used == tuple(sorted(map(int, numbers.split())))
        rewards.append(PLUGIN.score(Item(item.prompt, reference), item.reference)["reward"])
    assert set(rewards) == {0.1, 1.0} and 0 < rewards.count(1.0) < 60


def test_base_answers_may_keep_the_numbers_as_given(splits):
    def kept(base: list[Item]) -> list[bool]:
        return [re.findall(r"\d+", item.reference) == re.findall(r"\d+", item.prompt)[:3] for item in base]

    given = items(SETTINGS.model_copy(update={"base_order": "given"}), seed=3)
    assert all(kept(given["base"])) and not all(kept(splits["base"]))
    assert (given["train"], given["test"]) == (splits["train"], splits["test"])


def test_compact_texts_have_fixed_lengths_and_survive_the_tokenizer(splits):
    texts = [item.prompt for split in splits.values() for item in split]
    answers = [item.reference for item in splits["base"]]
    tokenizer = character_tokenizer(ALPHABET)
    for group, length in ((texts, 16), (answers, ANSWER_LENGTH)):
        tokens = encode(tokenizer, group)
        assert tokens.shape[1] == length
        assert tokenizer.decode_batch(tokens.tolist()) == group


def test_sections_decide_what_a_task_is():
    compact, chat = (task_of("countdown", template=template) for template in ("compact", "chat"))
    assert (compact.answer_length, compact.alphabet) == (ANSWER_LENGTH, ALPHABET)
    assert (chat.answer_length, chat.alphabet) == (256, "")
    assert task_of("countdown", template="chat", answer_length=128).answer_length == 128
    assert task_of("examples.words").answer_length == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        (" (1+2) * 3 ", 9),
        ("-(2)/4", -0.5),
        ("--3", 3),
        ("1+\n2", None),
        ("1/0", None),
        ("2**3", None),
        ("7//2", None),
        ("3.5", None),
        ("1e3", None),
        ("07", None),
        ("2(3)", None),
        ("(1,2)", None),
        ("()", None),
        ("", None),
        ("x", None),
        ("9" * 20, None),
        ("+".join("1" * 300), None),
        ("-" * 300 + "1", None),
        ("(" * 150 + "1" + ")" * 150, 1),
    ],
)
def test_arithmetic(text, value):
    expression = parse(text)
    assert (expression.value if expression else None) == value


def test_arithmetic_as_published():
    assert parse("7//2", python=True).value == 3
    assert parse("3.5*4", python=True).value == 14
    assert parse("2**3", python=True) is None
    assert parse("7*3+7").numbers == (3, 7, 7)
