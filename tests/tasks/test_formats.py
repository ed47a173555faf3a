"""Every format of an answer, in both profiles: what is read from it and whether it counts."""

import json
from pathlib import Path

import pytest

from pipeline.tasks.gsm8k import read_number
from tests.conftest import task_of

PUZZLE, SOLUTION = "1000001000000001", "1234341221434321"
OTHER = "1243431221343421"
"""Another completion of the puzzle."""
ANSWERS = json.loads((Path(__file__).parent / "cases" / "answers.json").read_text())


def accuracy(name: str, profile: str, question: str, reference: object, text: str) -> float:
    task = task_of(name, template="chat", profile=profile)
    return task.score(task.saved.item(question, reference), text)[task.saved.accuracy]


@pytest.mark.parametrize(
    ("text", "reference", "d1", "strict"),
    [
        (r"so \boxed{18}", 18, True, True),
        (r"\boxed{18.0}", "#### 18", True, True),
        (r"\boxed{$18}", 18.0, True, True),
        (r"\boxed{18 dollars}", 18, True, True),
        (r"\boxed{}\boxed{...}\boxed{18}", 18, True, True),
        (r"\boxed{18}\boxed{}", 18, True, True),
        (r"\boxed{5} no, \boxed{18}", 18, False, True),
        (r"\boxed{18} no, \boxed{5}", 18, True, False),
        (r"\boxed{6,277}", 6277, False, True),
        (r"\boxed{6,277}", 6, True, False),
        (r"\boxed{6{,}277}", "#### 6,277", False, True),
        (r"\boxed{-5}", "#### -5", False, True),
        (r"\boxed{\frac{36}{2}}", 18, False, True),
        (r"\boxed{9+9=18}", 18, False, True),
        (r"\boxed{x = 18}", 18, True, True),
        ("<answer>18</answer>", 18, True, True),
        ("<answer>9 + 9 = 18</answer>", 18, True, True),
        ("<answer>5</answer> <answer>18</answer>", 18, False, True),
        (r"<answer>\boxed{18}</answer><|eot_id|>\boxed{5}", 18, True, True),
        (r"<answer>\boxed{eighteen} 18</answer>", 18, True, False),
        ("<answer>18", 18, False, False),
        ("the answer is 18", 18, False, False),
        ("#### 18", 18, False, False),
        (r"\boxed{18}", None, False, False),
        ("", None, False, False),
        ("", 18, False, False),
    ],
)
def test_gsm8k(text, reference, d1, strict):
    assert accuracy("gsm8k", "d1", "?", reference, text) == d1
    assert accuracy("gsm8k", "strict", "?", reference, text) == strict


@pytest.mark.parametrize(
    ("text", "reference", "d1", "strict"),
    [
        (r"\boxed{5}", "5", True, True),
        (r"\boxed{3} so \boxed{5}", "5", True, True),
        (r"\boxed{\frac{1}{2}}", r"\frac12", True, True),
        (r"\boxed{\dfrac{1}{2}}", "1/2", True, True),
        (r"\boxed{0.5}", r"\frac{1}{2}", True, True),
        (r"\boxed{0.25}", r"\frac{1}{4}", False, True),
        (r"\boxed{.5}", "0.5", True, True),
        (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\frac{\pi}{2})", True, True),
        (r"\boxed{x=5}", "5", True, True),
        (r"\boxed{f(x)=5}", "5", False, True),
        (r"\boxed{90^\circ}", "90", True, True),
        (r"\boxed{\$5}", "5", True, True),
        (r"\boxed{50\%}", "50", True, True),
        (r"\boxed{50%}", "50", False, True),
        (r"\boxed{12\text{ cm}}", "12", True, True),
        (r"\boxed{12 cm}", "12", False, True),
        (r"\boxed{12 \text{cm}^2}", "12", False, True),
        (r"\boxed{58,500}", "58500", False, True),
        (r"\boxed{58500}", "58,\\!500", False, True),
        (r"\boxed{\text{east}}", "east", False, True),
        (r"\boxed{East}", r"\text{east}", False, True),
        (r"\boxed{\sqrt3}", r"\sqrt{3}", True, True),
        (r"\boxed{1+x}", "x+1", False, True),
        (r"\boxed{x/2}", r"\frac{x}{2}", False, True),
        (r"\boxed{1\frac{1}{2}}", "1.5", False, True),
        (r"\boxed{[1,2)}", "(1,2)", False, False),
        (r"\boxed{,}", "(1,2)", False, False),
        (r"\boxed{\,}", "(1,2)", False, False),
        (r"\boxed{(1,2.0)}", "(1, 2)", False, True),
        (r"\boxed{12x}", "12", False, False),
        (r"\boxed{12345678901}", "12345678902", False, False),
        (r"\boxed{1.414}", r"\sqrt{2}", False, False),
        (r"it is \boxed 5$ or so", "5", True, False),
        (r"\boxed{3}, \boxed{5", "5", False, False),
        (r"\boxed{3}, \boxed{5", "3", False, True),
        (r"\boxed{5 <answer>7</answer>", "7", True, True),
        (r"\boxed{} <answer>7</answer>", "7", True, True),
        ("<answer>7</answer>", "7", False, True),
        ("7", "7", True, False),
        ("", "7", False, False),
    ],
)
def test_math500(text, reference, d1, strict):
    assert accuracy("math500", "d1", "?", reference, text) == d1
    assert accuracy("math500", "strict", "?", reference, text) == strict


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18,000 apples", 18000),
        ("about $18.50 per hour", 18.5),
        ("1 1/2 cups", 1.5),
        ("3/4 cup", 0.75),
        ("2 million", 2_000_000),
        ("1.2e6", 1_200_000),
        (r"3\times 10^4", 30_000),
        ("9 + 9 = 18", 18),
        ("7 m/s", 7),
        ("20%", 20),
        ("12:30", None),
        ("20-30", None),
        ("20–30", None),
        ("1,2", None),
        ("18 hours 30 minutes", None),
        ("2k", None),
        ("5 and a half", None),
        ("10^6", None),
        ("x/18", None),
        ("1/0", None),
        ("1e999", None),
        ("eighteen", None),
    ],
)
def test_numbers(text, value):
    """The whole answer is read, or nothing of it."""
    found = read_number(text)
    assert (None if found is None else float(found)) == value


@pytest.mark.parametrize("case", ANSWERS["gsm8k_strict"] + ANSWERS["countdown_strict"])
@pytest.mark.parametrize("form", ["\\boxed{{{}}}", "<answer>{}</answer>"])
def test_answers(case, form):
    name = "gsm8k" if "reference" in case else "countdown"
    reference = case["reference"] if name == "gsm8k" else [case["numbers"], case["target"]]
    assert accuracy(name, "strict", "?", reference, form.format(case["answer"])) == case["right"]


@pytest.mark.parametrize(
    ("text", "d1", "strict"),
    [
        (r"\boxed{3+4*5}", True, True),
        (r"\boxed{3 + 4 \times 5}", True, True),
        (r"\boxed{3 + 4 \cdot 5 = 23}", True, True),
        (r"\boxed{3 + 4 \times 5 = 24}", True, True),
        (r"\boxed{1} \boxed{(4*5)+3}", True, True),
        (r"\boxed{3+4*5} \boxed{1}", False, False),
        (r"\boxed{3+4*5} \boxed{1", False, True),
        (r"\boxed{3+4*5+0}", False, False),
        (r"\boxed{3+4+5}", False, False),
        (r"\boxed{3+20}", False, False),
        (r"\boxed{23}", False, False),
        (r"\boxed{5*\left(4\right) + 3}", False, True),
        (r"\boxed{1 <answer>3+4*5</answer>", True, True),
        (r"<answer>3+4*5</answer>", False, True),
        (r"3+4*5", True, False),
        (r"3+4*5 = 23", True, False),
        (r"we get 3+4*5 = 23.", True, False),
        (r"\boxed{4*5+3**1}", False, False),
        (r"\boxed{4*5--3}", True, True),
        (r"\boxed{4 5 3}", False, False),
        (r"\boxed{3+4·5.}", False, True),
        (r"\boxed{\(3+4\times5\)}", False, True),
        (r"\boxed{23 = 3+4*5}", False, True),
        (r"\boxed{24 = 3+4*5}", False, False),
        (r"\boxed{23 = 23}", False, False),
        (r"\boxed{3+4*5 = 23 = 23}", True, True),
        ("", False, False),
    ],
)
@pytest.mark.parametrize("reference", [[[3, 4, 5], 23], "[[3, 4, 5], 23]", {"numbers": [3, 4, 5], "target": 23}])
def test_countdown(text, reference, d1, strict):
    assert accuracy("countdown", "d1", "?", reference, text) == d1
    assert accuracy("countdown", "strict", "?", reference, text) == strict


def test_countdown_division_and_quirks():
    """Published: digits are counted, not numbers, and Python's `//` is understood."""
    assert accuracy("countdown", "d1", "?", [[3, 4, 5], 14], r"\boxed{3.5*4}") == 1
    assert accuracy("countdown", "strict", "?", [[3, 4, 5], 14], r"\boxed{3.5*4}") == 0
    assert accuracy("countdown", "d1", "?", [[7, 2, 1], 4], r"\boxed{7//2+1}") == 1
    assert accuracy("countdown", "strict", "?", [[7, 2, 1], 4], r"\boxed{7//2+1}") == 0
    for profile in ("d1", "strict"):
        assert accuracy("countdown", profile, "?", [[8, 3, 8], 24], r"\boxed{8 \div (3 - 8 \div 3)}") == 0
        assert accuracy("countdown", profile, "?", [[8, 2, 6], 10], r"\boxed{8 \div 2 + 6}") == 1
        assert accuracy("countdown", profile, "?", [[8, 2, 2], 10], r"\boxed{8 \div (2 - 2)}") == 0
    assert accuracy("countdown", "strict", "?", [[8, 2, 6], 10], r"\boxed{\frac{8}{2} + 6}") == 1
    assert accuracy("countdown", "strict", "?", [[24, 2, 3], 4], r"\boxed{\dfrac{\frac{24}{2}}{3}}") == 1
    assert accuracy("countdown", "strict", "?", [[1, 3, 9], 3], r"\boxed{(1/3)*9}") == 1  # not so in floats


@pytest.mark.parametrize(
    ("text", "d1", "strict"),
    [
        (f"<answer>\n{SOLUTION}\n</answer>", 13, 13),
        ("<answer>12 34\n34 12\n21 43\n43 21</answer>", 13, 13),
        (f"<answer>\n```\n{SOLUTION}\n```\n</answer>", 13, 13),
        (f"<answer>1111</answer>```{SOLUTION}```", 13, 0),
        (f"<answer>{SOLUTION}<|eot_id|>", 13, 0),
        (f"<answer>{SOLUTION}<|endoftext|><|endoftext|>", 13, 0),
        (f"</answer>\n{SOLUTION}", 13, 0),
        (f"<answer></answer>{SOLUTION}", 13, 0),
        (f"{SOLUTION}\n</answer> <|eot_id|>", 13, 0),
        (f"it is {SOLUTION}.", 13, 0),
        (f"it is a{SOLUTION}.", 0, 0),
        (f"<answer>{SOLUTION[:8]}</answer>", 6, 0),
        (f"<answer>{SOLUTION}123</answer>", 13, 0),
        (f"<answer>2{SOLUTION[1:]}</answer>", 13, 0),
        (f"<answer>{SOLUTION[:-2]}x1</answer>", 12, 12),
        (f"<answer>{OTHER}</answer>", 5, 13),
        (f"<answer>{OTHER}</answer><answer>{SOLUTION}</answer>", 5, 13),
        ("", 0, 0),
    ],
)
@pytest.mark.parametrize("question", [PUZZLE, f"Solve the following Sudoku puzzle: {PUZZLE}\n"])
def test_sudoku(text, d1, strict, question):
    for profile, cells in (("d1", d1), ("strict", strict)):
        assert accuracy("sudoku", profile, question, SOLUTION, text) == pytest.approx(cells / PUZZLE.count("0"))
