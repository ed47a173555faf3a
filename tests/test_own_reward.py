"""docs/tasks.md, "A reward of your own": its files and commands, word for word."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from examples import tiny_llada
from pipeline.plugins import load_task, resolve_task
from pipeline.settings.stages import PrepareSettings
from pipeline.stages.prepare import checked_items
from pipeline.storage import parquet
from pipeline.tasks.base import Item
from tests.conftest import ROOT
from tests.forks import forks

BLOCK = re.compile(r"^(?P<before>[^\n]*):\n\n```(?P<kind>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINKED = ("Snakefile", "pipeline", "profiles", "examples")


def section() -> str:
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    return text[text.index("\n## A reward of your own\n") :].split("\n## ")[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository with the files that the section shows: each is named in code in the line above it."""
    directory = tmp_path_factory.mktemp("own")
    for name in LINKED:
        (directory / name).symlink_to(ROOT / name)
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for block in BLOCK.finditer(section()):
        name = re.findall(r"`([\w/]+\.\w+)`", block["before"])
        if block["kind"] == "yaml":
            assert name == ["params.yaml"] and block["text"].startswith("runs:\n")
            params = params.replace("\nruns:\n", f"\n{block['text']}", 1)
        elif block["kind"] != "sh":
            path = directory / name[-1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block["text"], encoding="utf-8")
    (directory / "params.yaml").write_text(params, encoding="utf-8")
    return directory


def test_the_documented_lines_train_on_a_reward_and_score_with_it(checkout):
    commands = "".join(COMMANDS.findall(section()))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", **forks().environment(str(checkout))}
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    run = checkout / "data" / "runs" / "mine"
    assert (run / "report.html").is_file()
    rollouts = parquet.read([run / "round_001" / "rollouts" / "00.parquet"], parquet.ROLLOUTS)
    assert len(rollouts) == 16 * 16
    means = [json.loads((run / f"round_00{k}" / "adjoint.json").read_text())["reward_mean"] for k in (1, 4)]
    assert means[1] > 2 * means[0]
    scores = json.loads((checkout / "scores.json").read_text())
    assert (scores["n"], scores["reward"]) == (2, pytest.approx((1 / 16 + 1) / 2))


def test_prompts_without_right_answers(tmp_path, monkeypatch):
    """docs/tasks.md: a task that makes its items itself, with no split `base`."""
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    (found,) = (block for block in BLOCK.finditer(text) if "sentences.py" in block["before"])
    (tmp_path / "own_prompts").mkdir()
    (tmp_path / "own_prompts" / "sentences.py").write_text(found["text"])
    monkeypatch.syspath_prepend(tmp_path)
    settings = load_task("own_prompts.sentences").settings(name="own_prompts.sentences")
    splits = checked_items(PrepareSettings(seed=0, task=settings))
    assert {name: len(items) for name, items in splits.items() if items} == {"train": 6, "test": 2}
    ten, none = (resolve_task(settings).score(splits["test"][0], text)["reward"] for text in ("a " * 10, ""))
    assert (ten, none) == (0, -10)


def test_the_reward_of_the_readme_gets_answers_without_what_follows_their_end(tmp_path, monkeypatch):
    """In a run whose own profile, d1, scores the whole text: fillers after a short answer would make it the longer."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "own_rewards").mkdir()
    (tmp_path / "own_rewards" / "short.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    monkeypatch.syspath_prepend(tmp_path)
    settings = load_task("own_rewards.short").settings(name="own_rewards.short", profile="d1", answer_length=8)
    task = resolve_task(settings)
    assert not task.whole_text
    assert resolve_task(load_task("gsm8k").settings(name="gsm8k", profile="d1", answer_length=8)).whole_text
    item = Item("", "so 9 + 9 = 18\n#### 18")
    answers = ("\\boxed{18}", "It is \\boxed{18}.", "\\boxed{180}")
    right, longer, wrong = (task.score(item, answer) for answer in answers)
    assert right["reward"] > longer["reward"] > wrong["reward"]
    assert [scores["accuracy"] for scores in (right, longer, wrong)] == [1, 1, 0]


def test_the_section_names_every_field_of_an_item():
    assert re.findall(r"^\| `(\w+)` \|", section(), re.MULTILINE) == [field.name for field in fields(Item)]


def test_the_tiny_checkpoint_is_what_its_script_makes(tmp_path):
    """Files equal byte for byte, so that nobody has to trust a binary."""
    tiny_llada.write(tmp_path)
    committed = ROOT / "examples" / "tiny-llada"
    assert {path.name for path in committed.iterdir()} == {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (committed / path.name).read_bytes(), f"python -m examples.tiny_llada {committed}"
