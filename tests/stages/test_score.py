"""Saved generations, scored again by the command."""

import json
import sys
from collections.abc import Callable

import pytest

from pipeline.stages.score import main, ratio
from tests.conftest import ROOT, said

CASES = ROOT / "tests" / "tasks" / "cases"
LINES = {
    "gsm8k": [
        ("?", r"\boxed{6,277}", 6277.0),
        ("?", r"\boxed{18}", 18),
        ("?", r"\boxed{18}", None),
        ("?", "", "#### 18"),
    ],
    "math500": [("?", r"\boxed{12 cm}", "12"), ("?", r"\boxed{5}", "5"), ("?", r"\boxed{6}", "5"), ("?", "5", "5")],
    "countdown": [
        ("?", r"\boxed{3+4*5}", [[3, 4, 5], 23]),
        ("Numbers: [3, 4, 5]\nTarget: 23", "3+4*5", None),
        ("?", "<answer>3+4*5</answer>", {"numbers": [3, 4, 5], "target": 23}),
        ("?", r"\boxed{3+4+5}", "([3, 4, 5], 23)"),
    ],
    "sudoku": [
        ("1034301220404321", "<answer>1234341221434321</answer>", "1234341221434321"),
        ("Solve the following Sudoku puzzle: 1034301220404321\n", "1134341221434321", "1234341221434321"),
    ],
}
CORRECT = {
    ("gsm8k", "d1"): [False, True, False, False],
    ("gsm8k", "strict"): [True, True, False, False],
    ("math500", "d1"): [False, True, False, True],
    ("math500", "strict"): [True, True, False, False],
    ("countdown", "d1"): [True, True, False, False],
    ("countdown", "strict"): [True, False, True, False],
    ("sudoku", "d1"): [4, 3],
    ("sudoku", "strict"): [4, 0],
}


@pytest.fixture
def score(tmp_path, monkeypatch, capsys) -> Callable[[str, str, str], str]:
    """The command in this process: what it prints; SystemExit with the line of an error."""

    def run(task: str, profile: str, text: str) -> str:
        (tmp_path / "x.jsonl").write_text(text)
        paths = ["--generations", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "out.json")]
        monkeypatch.setattr(sys, "argv", ["score", "--task", task, "--profile", profile, *paths])
        main()
        return capsys.readouterr().out

    return run


def lines(rows) -> str:
    return "".join(
        json.dumps(dict(zip(("question", "generation", "reference"), row, strict=True))) + "\n" for row in rows
    )


@pytest.mark.parametrize(("task", "profile"), list(CORRECT))
def test_items_in_order_and_totals(score, tmp_path, task, profile):
    score(task, profile, lines(LINES[task]))
    out, expected = json.loads((tmp_path / "out.json").read_text()), CORRECT[task, profile]
    assert [item["correct"] for item in out["items"]] == expected
    assert (out["n"], out["task"], out["profile"]) == (len(expected), task, profile)
    cells = [item.get("empty", 1) for item in out["items"]]
    assert cells == ([4, 4] if task == "sudoku" else [1] * 4)
    assert out["accuracy"] == pytest.approx(sum(expected) / sum(cells))
    assert out["accuracy_se"] == pytest.approx(ratio(expected, cells)[1])


@pytest.mark.parametrize("end", ["", "\n", " \n\n"])
@pytest.mark.parametrize("task", ["gsm8k", "math500"])
@pytest.mark.parametrize("profile", ["d1", "strict"])
def test_small_numbers_and_blank_lines(score, tmp_path, task, profile, end):
    score(task, profile, (CASES / "generations.jsonl").read_text() + end)
    out = json.loads((tmp_path / "out.json").read_text())
    assert [item["correct"] for item in out["items"]] == [True, False]


def test_a_task_of_ones_own(score, tmp_path, monkeypatch):
    """Its metrics are averaged, whatever they are called."""
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\nfrom pipeline.tasks.gsm8k import PLUGIN\n"
        "from tests.tasks.cases.rewards import own_metric\nPLUGIN = replace(PLUGIN, score=own_metric)\n"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "own.py").rename(tmp_path / "mine" / "own.py")
    monkeypatch.syspath_prepend(tmp_path)
    printed = score("mine.own", "strict", lines([("?", "ab", 1), ("?", "abcd", 1)]))
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["items"] == [{"reward": 2.0, "length": 2.0}, {"reward": 4.0, "length": 4.0}]
    assert (out["n"], out["length"], out["length_se"]) == (2, 3.0, 1.0)
    assert printed == "mine.own (strict): reward 3, length 3\n"


def test_all_metrics_of_a_task_with_an_accuracy(score, tmp_path):
    """Beside `correct`, which the papers count."""
    score("gsm8k", "strict", lines([("?", "<answer>18</answer>", 18)]))
    (item,) = json.loads((tmp_path / "out.json").read_text())["items"]
    assert item["correct"] is True and item["accuracy"] == 1.0 and item["reward"] > 2


def test_ratio():
    """s/√n where every item has one cell; items, not cells, are the sample."""
    assert ratio([1, 0, 1, 1], [1] * 4) == (0.75, pytest.approx(0.25))
    assert ratio([8, 0, 8, 8], [8] * 4) == (0.75, pytest.approx(0.25))
    share, error = ratio([2, 6], [4, 12])
    assert (share, error) == (0.5, 0.0)
    assert ratio([1], [1]) == (1.0, 0.0)


GOOD = '{"question": "?", "generation": "", "reference": 1}\n'


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("gsm8k", GOOD + "{\n", "x.jsonl:2: is not JSON"),
        ("gsm8k", GOOD + "\n" + "x", "x.jsonl:3: is not JSON"),
        ("gsm8k", GOOD + "[]\n", "x.jsonl:2: is not a JSON object"),
        ("gsm8k", '{"question": "?", "reference": 1}\n', "x.jsonl:1: has no key 'generation'"),
        ("gsm8k", '{"question": "?", "generation": "5"}\n', "has no key 'reference' (null if the reward reads none)"),
        (
            "gsm8k",
            '{"question": "?", "generation": 5, "reference": 1}\n',
            "x.jsonl:1: generation must be a text, not 5",
        ),
        ("gsm8k", GOOD.replace("1}", "[1]}"), "x.jsonl:1: reference must be a text or a number, not [1]"),
        ("gsm8k", GOOD.replace("1}", "true}"), "x.jsonl:1: reference must be a text or a number, not True"),
        ("gsm8k", GOOD.replace("1}", "NaN}"), "x.jsonl:1: reference must be a text or a finite number, not nan"),
        ("gsm8k", GOOD.replace("1}", '"2 million"}'), "x.jsonl:1: reference must be a number or end in '#### number'"),
        ("gsm8k", "[" * 100_000, "x.jsonl:1: maximum recursion depth exceeded"),
        ("math500", GOOD.replace("1}", "null}"), "x.jsonl:1: reference must be a text or a number, not None"),
        ("countdown", GOOD, "x.jsonl:1: reference must be [[a, b, c], target], or the question"),
        ("countdown", GOOD.replace("1}", "[[1, 2.5], 3]}"), "x.jsonl:1: 2.5 is not a whole number"),
        ("sudoku", GOOD, "x.jsonl:1: reference must be the 16 digits of the solution, not 1"),
        ("sudoku", GOOD.replace("1}", '"1234341221434321"}'), "x.jsonl:1: no puzzle: 16 digits"),
        ("gsm8k", "", "x.jsonl has no lines"),
        ("gsm8k", "\n \n", "x.jsonl has no lines"),
        ("gsm9k", GOOD, "unknown task 'gsm9k': did you mean 'gsm8k'?"),
        ("checkerboard", GOOD, "--task checkerboard: "),
    ],
)
def test_mistakes_are_one_line(score, tmp_path, capsys, task, text, message):
    """The real command is tested in hostile/test_scores.py."""
    assert message in said(lambda: score(task, "d1", text)).replace(f"{tmp_path}/", "")
    assert capsys.readouterr() == ("", "")


def test_help_says_what_a_line_holds(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["score", "--help"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    for word in ("question", "generation", "reference", "countdown", "<metric>_se", "correct", "empty", "strict"):
        assert word in shown
