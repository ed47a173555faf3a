"""Saved generations that are scored again, and real commands."""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages import score
from tests.conftest import ROOT
from tests.forks import SECONDS
from tests.hostile.harness import changed, damaged, examples, json_bytes, line_of, working_directory

BOXED = "<reasoning>\nso\n</reasoning>\n<answer>\n\\boxed{{{}}}\n</answer><|eot_id|>"
GENERATIONS: dict[str, list[dict]] = {
    "gsm8k": [{"question": "?", "generation": BOXED.format(8), "reference": reference} for reference in ("#### 8", 9)],
    "math500": [{"question": "?", "generation": BOXED.format("\\frac{1}{2}"), "reference": "0.5"}] * 2,
    "countdown": [{"question": "?", "generation": BOXED.format("3+4*5"), "reference": [[3, 4, 5], 23]}] * 2,
    "sudoku": [
        {
            "question": "0034341221434321",
            "generation": "<answer>1234341221434321</answer>",
            "reference": "1234341221434321",
        }
    ],
}
PIECES = (
    "\\boxed{",
    "}",
    "<answer>",
    "</answer>",
    "<reasoning>\n",
    "####",
    "\\frac{1}{2}",
    "\\sqrt[3]{8}",
    "9^{9^{9}}",
    "1e999",
)
PIECES += (
    "3+4*5",
    "(",
    ")",
    "1234341221434321",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
    "[1, 2)",
    "x^2+1",
    "\\int_0^1 x",
    "1_000",
    "٣",
)
PIECES += (
    "<|eot_id|>",
    "\n",
    " ",
    "=",
    "%",
    "10!",
    "\\infty",
    "i^i",
    "\\text{ cm}",
    "**",
    "//0",
    "\ud800",
    "\x00",
    "_",
    "$",
    "\\",
    "2^{10^8}",
)
ANSWERS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=8).map("".join)


def use(task: str, profile: str) -> dict:
    """The whole command but its start."""
    score.run(argparse.Namespace(task=task, profile=profile, generations=Path("x.jsonl"), out=Path("out.json")))
    return json.loads(Path("out.json").read_text())


def lines(rows: list) -> bytes:
    return b"\n".join(map(json_bytes, rows))


@pytest.mark.parametrize("profile", ["d1", "strict"])
@pytest.mark.parametrize("task", GENERATIONS)
def test_unchanged_generations_work(task, profile):
    with working_directory() as work:
        (work / "x.jsonl").write_bytes(lines(GENERATIONS[task]))
        assert use(task, profile)["accuracy"] > 0


@examples(120)
@given(st.sampled_from(sorted(GENERATIONS)), st.sampled_from(("d1", "strict")), st.data())
def test_generations(task, profile, data):
    """Rows, bytes and answers; whatever is scored is a finite number."""
    valid = GENERATIONS[task]
    answered = ANSWERS.map(lambda text: lines([row | {"generation": text} for row in valid]))
    referred = st.builds(
        lambda a, b: lines([valid[0] | {"generation": BOXED.format(a), "reference": b}]), ANSWERS, ANSWERS
    )
    with working_directory() as work:
        (work / "x.jsonl").write_bytes(
            data.draw(changed(valid).map(lines) | damaged(lines(valid)) | answered | answered | referred)
        )
        if not line_of(lambda: use(task, profile), "x.jsonl"):
            assert math.isfinite(json.loads((work / "out.json").read_text())["accuracy"])


@pytest.mark.parametrize("number", range(3))
def test_commands(number):
    """One line on standard error and no traceback, from real processes."""
    commands = (
        ["score", "--task", "gsm8k", "--profile", "d1", "--generations", "x.jsonl", "--out", "../escape/out"],
        ["prepare", "--settings", '{"seed": 0, "task": {"name": "a\\ud800"}}', "--timing", "t", "--out", "items"],
        ["export", "../../x", "out"],
    )
    with working_directory() as work:
        (work / "x.jsonl").write_bytes(lines(GENERATIONS["gsm8k"]))
        command = [sys.executable, "-m", f"pipeline.stages.{commands[number][0]}", *commands[number][1:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
