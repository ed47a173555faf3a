"""A user's reward or task that fails: the stage stops with one line that names the item, or the module."""

import itertools

import pytest

from tests.small_workflow import Stage

NUMBERS = itertools.count()


def plug_in(stage: Stage, text: str) -> str:
    """Write a user's task and return its import path, which is different each time."""
    package = stage.run.parent / f"mine{next(NUMBERS)}"
    package.mkdir()
    (package / "task.py").write_text(text)
    return f"{package.name}.task"


SUDOKU = """
from dataclasses import replace
from pipeline.tasks.sudoku import PLUGIN

def score(item, answer):
    BODY

PLUGIN = replace(PLUGIN, score=score)
"""


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("rollout", "return {'reward': float('nan')}", "the reward is nan, not a finite number, on item "),
        ("rollout", "return {'reward': -float('inf')}", "the reward is -inf, not a finite number, on item "),
        ("rollout", "return {'reward': 10**400}", "the reward is 1000"),
        ("rollout", "return {'reward': 'high'}", "the reward is 'high', not a finite number, on item "),
        ("rollout", "return {'reward': -1e200}", "the reward is -1e+200, not a number between ±1e+100, on"),
        ("rollout", "return {'reward': 0, 'n': 5}", "the score has a metric called 'n', a name of the"),
        ("rollout", "return {'reward': 0, 'kl': 5}", "the score has a metric called 'kl', a name of the"),
        (
            "evaluate",
            "return {'reward': 0, 'a_se': 5}",
            "the score has a metric called 'a_se', a name of the report itself",
        ),
        ("rollout", "return {'accuracy': 1.0}", "the score has no 'reward' but ['accuracy'] on item "),
        ("rollout", "return", "the score is None, not a mapping, on item "),
        ("rollout", "raise ValueError('first line\\nsecond line')", "the reward raised ValueError: first line second "),
        ("rollout", "raise SystemExit(0)", "the reward raised SystemExit: 0 (task.py, line 6) on item "),
        ("rollout", "return score(item, answer)", "the reward raised RecursionError: "),
        ("rollout", "while True: pass", "the reward took longer than 0.2 s (reward_timeout) on item "),
        ("decode", "while True: pass", "the reward took longer than 0.2 s (reward_timeout) on item "),
        ("evaluate", "return {'reward': 1.0, 'extra': float('nan')}", "the metric 'extra' is nan, not a finite"),
        ("evaluate", "return {'reward': 1.0, item.prompt: 1.0}", "the score has ["),
    ],
)
def test_rewards(line, stage, name, body, message):
    """The message names the item and the text."""
    task = plug_in(stage, SUDOKU.replace("BODY", body))
    section = "rollout" if name == "rollout" else "evaluate"
    found = line(name, task={"name": task}, **{section: {"reward_timeout": 0.2}})
    assert message in found and "(prompt '" in found and "answer '" in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_there", "cannot import task 'NAME': ModuleNotFoundError: No module named 'nothing_there'"),
        ("x = {", "cannot import task 'NAME': SyntaxError: '{' was never closed (task.py, line 1)"),
        ("raise SystemExit", "cannot import task 'NAME': SystemExit: "),
        ("x = 1", "module 'NAME' ("),
    ],
)
def test_tasks(line, stage, text, message):
    name = plug_in(stage, text)
    assert message.replace("NAME", name) in line("prepare", task={"name": name})
