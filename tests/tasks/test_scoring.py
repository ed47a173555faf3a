"""A user's reward that raises, hangs or returns nonsense stops the run with the item and the text."""

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.answers import read_splits
from pipeline.plugins import load_task
from pipeline.settings.stages import PrepareSettings
from pipeline.stages import prepare
from pipeline.storage import parquet
from pipeline.tasks.base import Item
from pipeline.tasks.scoring import Scorer
from tests.conftest import ROOT
from tests.processes import still_running
from tests.tasks.cases import rewards

ITEM = Item("question", "reference")
TASK = """
from dataclasses import replace
from pipeline.tasks.sudoku import PLUGIN
from tests.tasks.cases.rewards import {0}
PLUGIN = replace(PLUGIN, score={0})
"""


@pytest.fixture
def scorer(tmp_path, monkeypatch):
    """Makes the scorer of a task of one's own with one of the rewards in cases/rewards.py."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()
    made = []

    def make(reward: str, timeout: float) -> Scorer:
        name = f"mine.{reward}_{os.getpid()}"
        (tmp_path / f"{name.replace('.', '/')}.py").write_text(TASK.format(reward))
        made.append(Scorer(load_task(name).settings(name=name), timeout))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            "fails",
            "the reward raised ValueError: no such cell (rewards.py, line 46) on item 7 (prompt 'question', "
            "answer 'text')",
        ),
        ("raises_what_nobody_catches", "the reward raised BaseException: stop (rewards.py, line 50) on item 7"),
        ("ends_the_process", "the reward ended its process (status 3) on item 7"),
        ("several", "the reward is array([0., 0.]), not a finite number, on item 7"),
        ("not_a_number", "the reward is nan, not a finite number, on item 7"),
        ("infinite", "the reward is inf"),
        ("no_reward", "has no 'reward' but ['accuracy']"),
    ],
)
def test_bad_rewards(scorer, reward, message, capfd):
    """The line names item and answer; the traceback of an exception is in the log, with file and line."""
    with pytest.raises(PipelineError) as error:
        scorer(reward, 5.0)([ITEM], ["text"], ids=[7])
    assert message in str(error.value)
    if "raise" in message:
        assert f'{Path(rewards.__file__)}", line ' in capfd.readouterr().err


FAILS_ON_ONE = """
from dataclasses import replace
from pipeline.tasks.gsm8k import PLUGIN

def score(item, answer):
    return {"reward": 1 / (float(item.reference) - 4)}

PLUGIN = replace(PLUGIN, score=score)
"""


def test_the_row_of_the_data_is_named(tmp_path, monkeypatch):
    """From the file through rule `prepare` to the reward's own process."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "legs.py").write_text(FAILS_ON_ONE)
    rows = [{"question": f"How many legs have {number} birds?", "answer": 2 * number} for number in range(1, 6)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"path": "questions.jsonl", "test_items": 1}
    section = load_task("ours.legs").settings(name="ours.legs", data=data, validation_items=0)
    prepare.run(Namespace(out=Path("items")), PrepareSettings(seed=0, task=section))
    (items,) = read_splits([Path("items/train.parquet")]).values()
    with closing(Scorer(section, 5.0)) as score, pytest.raises(PipelineError) as error:
        score(items, ["text"] * len(items))
    wanted = "the reward raised ZeroDivisionError: float division by zero (legs.py, line 6) on item 1"
    assert f"{wanted} (questions.jsonl, line 2; prompt '" in str(error.value)


def _group(leader: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            found += [process.pid] if os.getpgid(process.pid) == leader else []
    return found


@pytest.mark.parametrize(
    "reward", ["times_itself", "leaves_its_handler", "catches_everything", "catches_for_ever", "hangs_with_a_child"]
)
def test_hangs(scorer, reward, tmp_path, capfd):
    """A reward is killed in time, with the processes it has started; where it hung is in the log."""
    score = scorer(reward, 0.5)
    score.process.start()
    start = time.monotonic()
    with pytest.raises(PipelineError, match=r"took longer than 0.5 s \(reward_timeout\) on item 7 \(prompt 'question'"):
        score([ITEM], [str(tmp_path / "pid")], ids=[7])
    assert time.monotonic() - start < 0.5 + 10  # it would hang for 1000 seconds
    assert f"in {reward}" in capfd.readouterr().err
    if reward == "hangs_with_a_child":
        assert still_running([int((tmp_path / "pid").read_text())]) == []


STAGE = """
import sys
from pipeline.plugins import load_task
from pipeline.tasks.base import Item
from pipeline.tasks.scoring import Scorer
sys.path.insert(0, sys.argv[1])
score = Scorer(load_task(sys.argv[2]).settings(name=sys.argv[2]), 60.0)
print(score([Item("question", "reference")], ["text"])[0]["reward"], flush=True)
sys.stdin.read()
"""


def test_a_stage_that_is_killed_leaves_nothing(scorer, tmp_path):
    """Neither the reward's process nor what the reward has started."""
    name = scorer("leaves_a_child", 60.0).process.section.name
    command = [sys.executable, "-c", STAGE, str(tmp_path), name]
    stage = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = int(float(stage.stdout.readline()))
    (reward,) = psutil.Process(stage.pid).children()
    assert psutil.Process(child).ppid() == reward.pid
    group = _group(reward.pid)
    assert {child, reward.pid} < set(group)
    stage.kill()
    stage.communicate()
    assert still_running(group) == []


def test_one_process_for_all_answers(scorer):
    """A reward may keep what it has loaded."""
    score = scorer("counts", 5.0)
    first, second = score([ITEM] * 2, ["a", "b"]), score([ITEM], ["c"])
    assert [metrics["reward"] for metrics in first + second] == [1, 2, 3]
    assert rewards.COUNT == []


@pytest.mark.parametrize("name", ["sudoku", "checkerboard", "antibody"])
def test_rewards_of_this_package_need_no_process(name):
    assert Scorer(load_task(name).settings(name=name), 1.0).process is None


def test_any_kind_of_number_is_a_float(scorer):
    """What NumPy and others count with cannot be written as JSON."""
    (metrics,) = scorer("numpy_numbers", 5.0)([ITEM], ["text"])
    assert metrics == {"reward": 0.5, "right": 1.0, "count": 3.0}
    assert {type(value) for value in metrics.values()} == {float}


def test_metrics_stay_the_same(scorer):
    score = scorer("changing", 5.0)
    score([ITEM], ["a"])
    with pytest.raises(PipelineError, match=r"the score has \['b', 'reward'\], not \['a', 'reward'\] as the first one"):
        score([ITEM], ["b"])


def test_truncated_parquet_is_named(tmp_path):
    path = tmp_path / "items.parquet"
    columns = {"item_id": [0], **{name: [value] for name, value in vars(Item("a", "b")).items()}}
    parquet.write(path, columns, parquet.ITEMS, {})
    assert parquet.read([path], parquet.ITEMS).to_pylist()[0]["prompt"] == "a"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PipelineError, match=r"items.parquet is not a complete Parquet file"):
        parquet.read([path], parquet.ITEMS)
    with pytest.raises(PipelineError, match="is missing"):
        parquet.read([tmp_path / "none.parquet"], parquet.ITEMS)
