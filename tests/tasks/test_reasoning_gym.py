"""Data sets of reasoning-gym: splits without common questions, its verifiers as rewards, refusals in one line."""

import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.settings.project import Hardware
from pipeline.settings.run import Run
from pipeline.tasks.reasoning_gym import ReasoningGym, items
from pipeline.tasks.scoring import Scorer
from pipeline.text.tokenizer import character_tokenizer, encode
from pipeline.workflow.preflight import problems
from tests.conftest import task_of

WORDS = {"dataset": "spell_backward", "config": {"min_word_len": 4, "max_word_len": 5}, "answer_length": 6}
FEW = {"train_items": 300, "test_items": 40, "validation_items": 20}
COMPACT = {"template": "compact", **WORDS, **FEW}


def made(seed: int = 0, **changes: object) -> dict:
    return items(ReasoningGym(name="reasoning_gym", **{**COMPACT, **changes}), seed)


def answer_of(item) -> str:
    return json.loads(item.reference)["answer"]


def test_no_question_occurs_twice():
    """Data sets share entries if their seeds are close; so small a one as this draws words again and again."""
    found = made()
    prompts = [item.prompt for split in ("train", "validation", "test") for item in found[split]]
    assert len(set(prompts)) == len(prompts) == 360
    assert {item.prompt for item in found["base"]} == {item.prompt for item in found["train"]}
    assert made() == found
    assert {item.prompt for item in made(1)["test"]} != {item.prompt for item in found["test"]}


def test_compact_texts_are_one_token_a_character():
    task, found = task_of("reasoning_gym", **COMPACT), made()
    tokenizer = character_tokenizer(task.characters(()))
    for split, rows in found.items():
        assert {item.prompt[-1] for item in rows} == {">"}
        assert encode(tokenizer, [item.prompt for item in rows]).shape == (len(rows), 6), split
    assert encode(tokenizer, [item.reference for item in found["base"]]).shape == (300, 6)
    for item in found["test"]:
        assert item.prompt[:-1].strip() == answer_of(item)[::-1]  # the wording "Spell this word …" is gone


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_base_answers(share):
    """All of them are answers of some item: the item's own for the share `base_right`, as far as 300 items show it."""
    found = made(base_right=share)
    pairs = zip(found["base"], found["train"], strict=True)
    right = [base.reference.strip() == answer_of(item) for base, item in pairs]
    assert abs(sum(right) / 300 - share) <= (0 if share in (0, 1) else 0.1)
    if share == 0:
        assert sorted(item.reference.strip() for item in found["base"]) == sorted(map(answer_of, found["train"]))


def test_the_verifier_scores_in_the_reward_process():
    task = task_of("reasoning_gym", **COMPACT)
    item = next(item for item in made()["test"] if len(answer_of(item)) == 5)
    right = answer_of(item)
    half = right[:2] + "".join("#" for _ in right[2:])
    with closing(Scorer(task.settings(name="reasoning_gym", **COMPACT), 60.0)) as score:
        found = score([item] * 4, [f"{right} ", half, "", "\ud7ff" * 6])
        assert score.process and score.process.running
    assert [entry["accuracy"] for entry in found] == [1, 0, 0, 0]
    assert [round(entry["reward"], 9) for entry in found] == [1, 0.4, 0, 0]
    changed = json.dumps({**json.loads(item.reference), "answer": "other"})
    with pytest.raises(PipelineError, match="generates other items than those of the run: delete its items"):
        task.score(replace(item, reference=changed), right)


def test_chat_reads_the_last_answer():
    task = task_of("reasoning_gym", **WORDS, **FEW)
    item = task.items(ReasoningGym(name="reasoning_gym", **WORDS, **FEW), 0)["test"][0]
    right = answer_of(item)
    assert task.chat and "<answer>" in item.prompt and item.prompt.endswith(right[::-1])
    assert task.score(item, f"<answer>x</answer> <answer>\n{right}\n</answer><|eot_id|>")["reward"] == 1
    assert task.score(item, f"{right}<|eot_id|><answer>{right}</answer>") == {"reward": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "spel_backward"}, "unknown data set 'spel_backward': did you mean 'spell_backward'?"),
        ({"config": {"min_word_lenght": 4}}, "'spell_backward' has no option 'min_word_lenght': did you mean 'min"),
        ({"config": {"seed": 4}}, "task.config: 'spell_backward' has no option 'seed'"),
        ({"config": {"min_word_len": 0}}, "task.config: 'spell_backward' refuses .*: min_word_len must be positive"),
        ({"config": {"min_word_len": "a"}}, "task.config: 'spell_backward' refuses .*: '>' not supported"),
        ({"dataset": "n_queens", "config": {}}, "verifier of 'n_queens' evaluates the model's text as Python code"),
        ({"train_items": 5, "config": {"min_word_len": 3, "max_word_len": 3}, "test_items": 1400}, "has only 13.. new"),
        ({"answer_length": 4}, "task.answer_length is 4, but 'spell_backward' has the answer '.....' of 5 characters"),
        ({"dataset": "prime_factorization", "config": {}, "answer_length": 40}, "has other characters than printable"),
    ],
)
def test_what_cannot_work_is_one_line(changes, message):
    with pytest.raises(PipelineError, match=message) as stop:
        made(**changes)
    assert "\n" not in str(stop.value)


def test_the_dry_run_says_it(monkeypatch):
    """Only for runs that are made: params.yaml names a run of this task, and the package is optional."""
    section = {"name": "reasoning_gym", **COMPACT, "dataset": "spel"}
    run = Run.model_validate({"task": section}, context={"whole": True})
    with pytest.raises(PipelineError, match="unknown data set 'spel'"):
        list(problems(run, Hardware(), Path("none")))
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(PipelineError, match=r"needs the package reasoning-gym: pip install .*\[gym\]"):
        list(problems(run, Hardware(), Path("none")))
