"""Saved generations, scored again by the command."""

import json
import os
import subprocess
import sys

import pytest

from pipeline.stages.score import ratio
from tests.conftest import ROOT

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


def score(tmp_path, task: str, profile: str, text: str, *, ok: bool = True) -> str:
    (tmp_path / "x.jsonl").write_text(text)
    command = [sys.executable, "-m", "pipeline.stages.score", "--task", task, "--profile", profile]
    paths = ["--generations", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "out.json")]
    done = subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr.replace(str(tmp_path) + "/", "")


def lines(rows) -> str:
    return "".join(
        json.dumps(dict(zip(("question", "generation", "reference"), row, strict=True))) + "\n" for row in rows
    )


@pytest.mark.parametrize(("task", "profile"), list(CORRECT))
def test_items_in_order_and_totals(tmp_path, task, profile):
    score(tmp_path, task, profile, lines(LINES[task]))
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
def test_small_numbers_and_blank_lines(tmp_path, task, profile, end):
    score(tmp_path, task, profile, (CASES / "generations.jsonl").read_text() + end)
    out = json.loads((tmp_path / "out.json").read_text())
    assert [item["correct"] for item in out["items"]] == [True, False]


def test_a_task_of_ones_own(tmp_path, monkeypatch):
    """Its metrics are averaged, whatever they are called."""
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\nfrom pipeline.tasks.gsm8k import PLUGIN\n"
        "from tests.tasks.cases.rewards import own_metric\nPLUGIN = replace(PLUGIN, score=own_metric)\n"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "own.py").rename(tmp_path / "mine" / "own.py")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    said = score(tmp_path, "mine.own", "strict", lines([("?", "ab", 1), ("?", "abcd", 1)]))
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["items"] == [{"reward": 2.0, "length": 2.0}, {"reward": 4.0, "length": 4.0}]
    assert (out["n"], out["length"], out["length_se"]) == (2, 3.0, 1.0)
    assert said == "mine.own (strict): reward 3, length 3\n"


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
        ("gsm8k", GOOD + "{\n", "error: x.jsonl:2: is not JSON"),
        ("gsm8k", GOOD + "\n" + "x", "error: x.jsonl:3: is not JSON"),
        ("gsm8k", GOOD + "[]\n", "error: x.jsonl:2: is not a JSON object"),
        ("gsm8k", '{"question": "?", "reference": 1}\n', "error: x.jsonl:1: has no key 'generation'"),
        (
            "gsm8k",
            '{"question": "?", "generation": 5, "reference": 1}\n',
            "x.jsonl:1: generation must be a text, not 5",
        ),
        ("gsm8k", GOOD.replace("1}", "[1]}"), "x.jsonl:1: reference must be a text, not [1]"),
        ("gsm8k", GOOD.replace("1}", "true}"), "x.jsonl:1: reference must be a text, not True"),
        ("gsm8k", GOOD.replace("1}", "NaN}"), "x.jsonl:1: reference must be a text or a finite number, not nan"),
        ("gsm8k", GOOD.replace("1}", '"2 million"}'), "x.jsonl:1: reference must be a number or end in '#### number'"),
        ("gsm8k", "[" * 100_000, "x.jsonl:1: maximum recursion depth exceeded"),
        ("math500", GOOD.replace("1}", "null}"), "x.jsonl:1: reference must be a text, not None"),
        ("countdown", GOOD, "x.jsonl:1: reference must be [[a, b, c], target], or the question"),
        ("countdown", GOOD.replace("1}", "[[1, 2.5], 3]}"), "x.jsonl:1: 2.5 is not a whole number"),
        ("sudoku", GOOD, "x.jsonl:1: reference must be the 16 digits of the solution, not 1"),
        ("sudoku", GOOD.replace("1}", '"1234341221434321"}'), "x.jsonl:1: no puzzle: 16 digits"),
        ("gsm8k", "", "error: x.jsonl has no lines"),
        ("gsm8k", "\n \n", "error: x.jsonl has no lines"),
        ("gsm9k", GOOD, "error: unknown task 'gsm9k': did you mean 'gsm8k'?"),
        ("checkerboard", GOOD, "error: --task checkerboard: "),
    ],
)
def test_mistakes_are_one_line(tmp_path, task, text, message):
    error = score(tmp_path, task, "d1", text, ok=False)
    assert message in error and error.count("\n") == 1


def test_help_says_what_a_line_holds():
    command = [sys.executable, "-m", "pipeline.stages.score", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for word in ("question", "generation", "reference", "countdown", "accuracy_se", "correct", "empty", "strict"):
        assert word in said
