"""Answers decoded in shards are those of a single job, bit for bit, and a missing or odd one is noticed."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.answers import Answer, decode, in_order, judged, kinds, read_shards, read_splits, write_shard
from pipeline.evaluation.decoding import load_decoder
from pipeline.plugins import load_task
from pipeline.settings.inheritance import merge
from pipeline.settings.params_file import parse_params
from pipeline.settings.stages import EvaluateSettings, parse_settings, settings_json
from pipeline.tasks.base import Item
from tests.small_workflow import SMALL, Workflow

SVDD = {"name": "svdd", "value": "pm", "candidates": 2}


@pytest.fixture
def settings() -> Callable[..., EvaluateSettings]:
    def changed(**changes: object) -> EvaluateSettings:
        known = json.loads(settings_json(parse_params(SMALL).runs["small"], "evaluate"))
        return parse_settings(json.dumps(merge(known, changes)), EvaluateSettings)

    return changed


@pytest.mark.parametrize("algorithm", [{}, SVDD])
@pytest.mark.parametrize("shards", [3, 20])
def test_shards_change_nothing(finished: Workflow, tmp_path: Path, settings, algorithm, shards):
    """64 test and 16 hard items in batches of 16, two samplers: 10 batches. Some of 20 shards stay empty."""
    chosen = settings(evaluate={"batch_size": 16}, algorithm=algorithm)
    run = finished.run_directory
    decoder = load_decoder(run / "round_001" / "policy", chosen, compiled=False)
    splits = read_splits([run / "items" / f"{split}.parquet" for split in ("test", "hard")])
    whole, paths = decode(decoder, splits, "alone"), [tmp_path / f"{shard}.parquet" for shard in range(shards)]
    sizes = []
    for shard, path in enumerate(paths):
        part = decode(decoder, splits, "", shard=shard, shards=shards)
        write_shard(path, part, chosen)
        sizes.append(len(part))
    assert sizes == [16 * len(range(shard, 10, shards)) for shard in range(shards)]
    wanted = list(kinds(splits, chosen.evaluate, decoder.context.task))
    assert in_order(read_shards(paths[::-1]), splits, wanted) == in_order(whole, splits, wanted)
    assert len(whole) == 160


def answers(*metrics: str) -> list[Answer]:
    return [Answer("test", "greedy", 16, id_, "a", {name: 1.0}, "cpu") for id_, name in enumerate(metrics)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: rows[1:], "the greedy answers of 16 tokens to split 'test' are not one for each item: delete"),
        (lambda rows: [*rows, rows[0]], "are not one for each item"),
        (lambda rows: [], "are not one for each item"),
        (lambda rows: [*rows, rows[0]._replace(split="old")], "to split 'old' are not one for each item"),
        (lambda rows: answers("reward", "other"), "the score of item 1 has ['other'], not ['reward'] as of the first"),
    ],
)
def test_missing_and_odd_answers(damage, message):
    items = [Item("p", "r", "g")] * 2
    wanted = [("test", "greedy", 16)]
    rows = answers("reward", "reward")
    assert list(in_order(rows[::-1], {"test": items}, wanted).values()) == [rows]
    with pytest.raises(PipelineError) as error:
        in_order(damage(rows), {"test": items}, wanted)
    assert message in str(error.value)


def test_a_judge_adds_metrics_before_those_of_the_score():
    task, items, rows = load_task("sudoku"), [Item("p", "r", "g")] * 2, answers("reward", "reward")
    assert judged(rows, items, task) == rows

    def judge(items: list[Item], texts: list[str]) -> list[dict[str, float]]:
        return [{"length": len(text), "reward": 9.0} for text in texts]

    found = judged(rows, items, dataclasses.replace(task, judge=judge))
    assert [list(answer.metrics.items()) for answer in found] == [[("length", 1.0), ("reward", 1.0)]] * 2


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        (lambda: [{"a": 1.0}, {"b": 1.0}], "the same metrics"),
        (lambda: [{"a": 1.0}], "the same metrics"),
        (lambda: [{"a": float("nan")}] * 2, "the same metrics, all of them finite numbers"),
        (lambda: [{"a": "high"}] * 2, "raised ValueError: could not convert"),
        (lambda: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_odd_judges(verdicts, message):
    task = dataclasses.replace(load_task("sudoku"), judge=lambda items, answers: verdicts())
    with pytest.raises(PipelineError, match=message):
        judged(answers("reward", "reward"), [Item("p", "r", "g")] * 2, task)
