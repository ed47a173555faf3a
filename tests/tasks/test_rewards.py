"""The rewards of training: what each term pays, in both profiles."""

import pytest

from pipeline.tasks.base import Item
from tests.conftest import task_of


def reward(name: str, profile: str, reference: str, text: str, prompt: str = "?", template: str = "chat") -> float:
    task = task_of(name, template=template, profile=profile)
    return task.score(Item(prompt, reference), text)["reward"]


LINES = "<reasoning>\n9 + 9\nis 18\n</reasoning>\n<answer>\n{}\n</answer>\n"


@pytest.mark.parametrize(
    ("text", "d1", "strict"),
    [
        (LINES.format(18), 3.0, 4.0),  # dots that match no line break: both formats are missed
        (LINES.format(18).replace("\nis", " is"), 3.5, 4.0),  # one line passes the strict pattern only
        ("<reasoning>9</reasoning> <answer>18</answer>", 3.0, 3.0),
        (LINES.format(17), 1.0, 2.0),
        (LINES.format("eighteen"), 0.5, 1.5),
        (LINES.format("\\boxed{18}"), 0.5, 4.0),
        (LINES.format("1,800"), 0.5, 2.0),
        (LINES.format(18) + "<|eot_id|><|endoftext|>", 3.0, 4.0),
        ("18", 2.5, 0.0),  # published: what has no tags is the answer
        ("", 0.0, 0.0),
    ],
)
def test_gsm8k(text, d1, strict):
    assert reward("gsm8k", "d1", "#### 18", text) == pytest.approx(d1)
    assert reward("gsm8k", "strict", "#### 18", text) == pytest.approx(strict)


def test_gsm8k_length_penalty():
    """0.001 for each character after the answer; published, twice, or for the whole text without a last line break."""
    long = LINES.format(18) + "x" * 100
    assert reward("gsm8k", "strict", "#### 18", long) == pytest.approx(4.0 - 0.1 - 0.5)
    assert reward("gsm8k", "d1", "#### 18", long) == pytest.approx(3.0 - 0.2)
    twice = LINES.format(18) + "</answer>\n"  # d1 sees the first of these two lines only
    assert reward("gsm8k", "d1", "#### 18", twice) == pytest.approx(2.5 + 0.375 - 0.01)
    cut = LINES.format(18).rstrip()
    assert reward("gsm8k", "d1", "#### 18", cut) == pytest.approx(3.0 - 0.001 * len(cut) + 0.001)


@pytest.mark.parametrize(
    ("text", "d1", "strict"),
    [
        ("<answer>\\boxed{5}</answer>", 2.75, 2.5),
        ("<answer>\\boxed{5}", 2.75, 2.0),
        ("\\boxed{5}", 2.25, 2.0),
        ("<answer>\\boxed{6}</answer>", 0.75, 0.5),
        ("<answer>5</answer>", 0.75, 0.0),
        ("5", 2.25, 0.0),  # published: without a box the whole text is the answer
        ("5<|eot_id|>", 2.25, 0.0),
        ("", 0.25, 0.0),
        ("<answer>\boxed{6}</answer>", 1.0, 0.0),  # published: a backspace
        ("<answer></answer>\boxed{6}", 0.75, 0.0),
        ("\boxed{6}", 0.5, 0.0),
        ("<answer>1<answer>\boxed{6}", 0.75, 0.0),
    ],
)
def test_math500(text, d1, strict):
    """Published: 0.25 always, 0.5 for `<answer>`, and 0.25 for a backspace where a backslash is meant."""
    assert reward("math500", "d1", "5", text) == d1
    assert reward("math500", "strict", "5", text) == strict


@pytest.mark.parametrize(
    ("text", "d1", "strict"),
    [
        ("<answer>3+4*5</answer>", 1.0, 1.0),
        ("<answer>1</answer><answer>3+4*5</answer>", 1.0, 1.0),
        ("<answer>3+4*5 = 23</answer>", 0.1, 1.0),
        ("<answer>\\boxed{3+4\\times 5}</answer>", 0.1, 1.0),
        ("<answer>3+4+5</answer>", 0.1, 0.1),
        ("<answer>3+20</answer>", 0.1, 0.1),
        ("<answer>no</answer>", 0.1, 0.1),
        ("<answer>5**2-4+3-1</answer>", 0.1, 0.1),
        ("<answer></answer>", 0.1, 0.1),
        ("<answer>3+4*5", 0.0, 0.0),
        ("3+4*5", 0.0, 0.0),
    ],
)
def test_countdown(text, d1, strict):
    assert reward("countdown", "d1", "[[4, 3, 5], 23]", text) == d1
    assert reward("countdown", "strict", "[[4, 3, 5], 23]", text) == strict


@pytest.mark.parametrize("profile", ["d1", "strict"])
def test_compact_countdown(profile):
    for text, expected in {
        "3+4*5        ": 1.0,
        "(4*5)+3": 1.0,
        "3+4+5": 0.1,
        "3+4*": 0.1,
        "1 2 3": 0.1,
        " ": 0.0,
    }.items():
        assert reward("countdown", profile, "[[4, 3, 5], 23]", text, template="compact") == expected


PUZZLE, SOLUTION = "1034301220404320", "1234341221434321"


@pytest.mark.parametrize(
    ("text", "d1", "strict"),
    [
        (f"<answer>{SOLUTION}</answer>", 1.0, 1.0),
        (f"<answer>0</answer><answer>{SOLUTION}</answer>", 1.0, 1.0),
        (f"<answer>so {SOLUTION}</answer>", 1.0, 0.0),
        (f"<answer>{SOLUTION[:8]}</answer>", 2 / 5, 0.0),
        (f"<answer>4{SOLUTION[1:]}</answer>", 1.0, 0.0),
        (f"<answer>{SOLUTION}", 0.0, 0.0),
        (SOLUTION, 0.0, 0.0),
    ],
)
def test_sudoku(text, d1, strict):
    prompt = f"Solve the following Sudoku puzzle: {PUZZLE}\n"
    assert reward("sudoku", "d1", SOLUTION, text, prompt) == pytest.approx(d1)
    assert reward("sudoku", "strict", SOLUTION, text, prompt) == pytest.approx(strict)


def test_compact_sudoku():
    """The published profile has one reference and lets givens be altered."""
    for text, d1, strict in ((SOLUTION, 1, 1), ("4" + SOLUTION[1:], 1, 0), (SOLUTION[:8], 0.4, 0)):
        assert reward("sudoku", "d1", SOLUTION, text, PUZZLE + ">", "compact") == pytest.approx(d1)
        assert reward("sudoku", "strict", SOLUTION, text, PUZZLE + ">", "compact") == strict
