"""Tasks and rewards of users that raise, end their process or return nonsense."""

import argparse
import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.answers import Answer, judged
from pipeline.plugins import load_task
from pipeline.settings.params_file import parse_params
from pipeline.settings.stages import PrepareSettings, parse_settings, settings_json
from pipeline.stages import evaluate, prepare
from pipeline.storage import parquet
from pipeline.tasks.base import Item, Task
from pipeline.tasks.pinwheel import PLUGIN as PINWHEEL
from pipeline.tasks.scoring import Scorer
from tests.hostile.harness import VALUES, examples, line_of, working_directory

NUMBERS = itertools.count()
PICTURE = {"model": {"name": "tabular"}, "base": {"exact": True}}
ITEMS = (
    "None",
    "{{}}",
    "{{'train': [3]}}",
    "{{'base': None}}",
    "{{3: [Item('a', 'b')]}}",
    "{{'train': [Item(1, 2)]}}",
    "1 / 0",
    "{{'train': [Item('\\ud800', '')]}}",
)
BODIES = {
    "returns": "return {value!r}",
    "returns a metric": "return {{'reward': {value!r}}}",
    "returns another metric": "return {{'reward': 1.0, 'x': {value!r}}}",
    "returns tensors": "import torch; return {{'reward': torch.ones(2), 'x': torch.tensor({value!r})}}",
    "names a metric": "return {{'reward': 1.0, str({value!r}): 1.0}}",
    "changes": "item.prompt = {value!r}",
    "raises": "raise {error}({value!r})",
    "writes": "print({value!r}, flush=True); return {{'reward': 1.0}}",
    "recurses": "return score(item, answer)",
    "imports": "import {error}",
}
ERRORS = [
    "ValueError",
    "KeyError",
    "OSError",
    "MemoryError",
    "SystemExit",
    "GeneratorExit",
    "BaseException",
    "StopIteration",
    "Nothing",
]
FILE = """
import dataclasses
from pipeline.tasks.base import Item
from pipeline.tasks.pinwheel import PLUGIN

nan, inf = float("nan"), float("inf")

def score(item, answer):
    {}

{}
"""
ENDS = ("PLUGIN = dataclasses.replace(PLUGIN, score=score)",) * 6
ENDS += (
    "def resolve(settings):\n    raise {error}('no')\nPLUGIN = dataclasses.replace(PLUGIN, resolve=resolve)",
    "PLUGIN = 3",
    "PLUGIN = None",
    "del PLUGIN",
    "PLUGIN = dataclasses.replace(PLUGIN, score=None)",
    "raise {error}('no')",
)
ENDS += (
    "PLUGIN = dataclasses.replace(PLUGIN, settings=dict)",
    "PLUGIN = dataclasses.replace(PLUGIN, resolve=score)",
    "PLUGIN =",
    "x\n\x00",
)


def use_task(name: str, *, apart: bool) -> None:
    """Read the section of params.yaml, make the items, and score an answer; `apart` in a process of its own."""
    params = parse_params({"default_run": "x", "runs": {"x": PICTURE | {"task": {"name": name, "base_items": 5}}}})
    section = parse_settings(settings_json(params.runs["x"], "prepare"), PrepareSettings).task
    scorer = Scorer(section, timeout=1.0)
    if not apart:
        scorer.process = None
    try:
        prepare.run(argparse.Namespace(out=Path("items")), PrepareSettings(seed=0, task=section))
        item = prepare.items_of(PrepareSettings(seed=0, task=section))["train"][0]
        (metrics,) = scorer([item], ["0a"])
        assert all(math.isfinite(value) for value in metrics.values()) and "reward" in metrics
    finally:
        scorer.close()


def write_task(work: Path, body: str, end: str) -> str:
    """A module that was never imported before, and its name."""
    name = f"hostile{next(NUMBERS)}"
    (work / name).mkdir()
    (work / name / "task.py").write_bytes(FILE.format(body, end).encode(errors="surrogatepass"))
    return f"{name}.task"


@pytest.mark.parametrize("apart", [False, True])
def test_unchanged_task_works(apart, monkeypatch):
    with working_directory() as work:
        monkeypatch.syspath_prepend(work)
        use_task(write_task(work, "return {'reward': 1.0}", ENDS[0]), apart=apart)


ENDS += tuple(
    f"from pipeline.tasks.base import Item; PLUGIN = dataclasses.replace(PLUGIN, items=lambda *_: {made})"
    for made in ITEMS
)


@examples(100)
@given(st.sampled_from(sorted(BODIES)), VALUES, st.sampled_from(ERRORS), st.sampled_from(ENDS))
def test_tasks_of_users(kind, value, error, end):
    """In this process, except for what only a process of its own survives: see tasks/test_rewards.py."""
    with working_directory() as work, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(work)
        name = write_task(work, BODIES[kind].format(value=value, error=error), end.format(error=error))
        line_of(lambda: use_task(name, apart=False), name, "reward", "score", "metric")


FIELDS = [field.name for field in dataclasses.fields(Task)]
OTHER_VALUES = ("None", "3", "-1", "'x'", "'aa'", "True", "[]", "1.5", "print", "Item", "lambda *_: None")


@examples(60)
@given(st.sampled_from(FIELDS), st.sampled_from(OTHER_VALUES))
def test_fields_of_a_task(name, value):
    """What is accepted has the field's own type: a wrong one is found when the module is imported."""
    end = f"PLUGIN = dataclasses.replace(PLUGIN, {name}={value})"
    with working_directory() as work, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(work)
        module = write_task(work, "return {'reward': 1.0}", end)
        line_of(lambda: use_task(module, apart=False), module, "reward", "score")
        if value in ("3", "1.5", "[]") and name != "answer_length":
            assert line_of(lambda: load_task(module), f"cannot import task '{module}': TypeError: {name} must be")


@pytest.mark.parametrize("made", ["iter(found)", "map(lambda item: item, found)", "(item for item in found)"])
def test_items_that_are_made_one_after_the_other(made):
    """Any iterable of items is as good as a list."""
    items = f"{{split: {made} for split, found in OLD.items(*given).items()}}"
    end = f"OLD = PLUGIN\nPLUGIN = dataclasses.replace(PLUGIN, items=lambda *given: {items})"
    with working_directory() as work, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(work)
        use_task(write_task(work, "return {'reward': 1.0}", end), apart=False)
        assert len(parquet.read_items(Path("items/train.parquet"))) == 1


SHOWS = ("1 / 0", "exit(0)", "None", "'\\ud800'", "{'a': 3}", "3")


@pytest.mark.parametrize("body", SHOWS)
@pytest.mark.parametrize("name", ["render", "marks", "judge"])
def test_what_a_task_shows(name, body):
    """A function that fails or returns something else, in the stage that calls it."""
    task = dataclasses.replace(PINWHEEL, **{name: eval(f"lambda *_: {body}")})
    answer = Answer("test", "greedy", 2, 0, "ab", {"reward": 1.0}, "cpu")
    if name == "judge":
        line = line_of(lambda: judged([answer], [Item("a", "b")], task), "the task's judge ")
    else:
        line = line_of(lambda: evaluate._sample(task, Item("a", "b"), answer), "the task's render or marks raised ")
    assert line


@examples(5)
@given(
    st.sampled_from(
        (
            "os._exit(0)",
            "os.kill(os.getpid(), 9)",
            "os.close(3)",
            "os.closerange(3, 99)",
            "os.abort()",
            "time.sleep(99)",
        )
    )
)
def test_rewards_that_end_their_process(call):
    with working_directory() as work, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(work)
        name = write_task(work, f"import os, time; {call}; return {{'reward': 1.0}}", ENDS[0])
        line_of(lambda: use_task(name, apart=True), "reward")
