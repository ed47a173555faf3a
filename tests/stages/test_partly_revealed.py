"""A task whose answers start partly revealed through all stages, whatever the shards and batches; what is refused."""

import dataclasses
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from examples import infill
from pipeline.errors import PipelineError
from pipeline.settings.params_file import parse_params
from pipeline.settings.project import Keep
from pipeline.settings.run import Run
from pipeline.settings.stages import STAGES, parse_settings, settings_json
from pipeline.stages import adjoint, base, evaluate, prepare, reference, rollout, train
from pipeline.storage import parquet
from pipeline.tasks.base import Item
from tests.small_workflow import SMALL

PARAMS = {
    "rounds": 1,
    "task": {"name": "examples.infill"},
    "model": SMALL["defaults"]["model"] | {"initializer_range": 0.3},
    "base": {"updates": 2, "batch_size": 8, "lr": 1e-3},
    "rollout": {"prompts": 6, "completions": 4, "tokens_per_step": 1, "batch_size": 8, "shards": 1},
    "train": {"updates": 2, "batch_size": 8},
}


def run_of(**rollout: int) -> Run:
    rollout = PARAMS["rollout"] | rollout
    return parse_params({"default_run": "a", "runs": {"a": PARAMS | {"rollout": rollout}}}).runs["a"]


class Stages:
    """Calls the functions of the stages."""

    def __init__(self, work: Path):
        self.work = work

    def __call__(self, stage, run: Run, **arguments: object) -> None:
        name = stage.__name__.rpartition(".")[2]
        paths = {key: self.work / value if isinstance(value, str) else value for key, value in arguments.items()}
        common = {"compile": False, "sharding": "none", "code": "", "keep": Keep(buffers="all", optimizer="all")}
        stage.run(Namespace(**common, **paths), parse_settings(settings_json(run, name), STAGES[name]))


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Stages:
    """With items and a base."""
    made = Stages(tmp_path_factory.mktemp("infill"))
    made(prepare, run_of(), out="items")
    limits = {"train": [["", 4]], "held_out": [["", 4]]}
    made(
        base,
        run_of(),
        items="items/base.parquet",
        limits=limits,
        out="r/p",
        summary="base.json",
        checkpoint="checkpoint",
    )
    return made


def rows(paths: list[Path]) -> list[dict]:
    return (
        parquet.read(paths, parquet.ROLLOUTS)
        .sort_by([("state_id", "ascending"), ("sample_id", "ascending")])
        .to_pylist()
    )


def test_from_rollouts_to_answers(stages):
    made, first = {}, np.array(0)
    for name, shape in {"a": {}, "b": {"batch_size": 4, "shards": 2}, "c": {"batch_size": 24}}.items():
        run = run_of(**shape)
        for shard in range(run.rollout.shards):
            out = f"{name}/{shard}.parquet"
            stages(rollout, run, items="items/train.parquet", policy="r/p", round=1, shard=shard, out=out)
        made[name] = rows([stages.work / f"{name}/{shard}.parquet" for shard in range(run.rollout.shards)])
        log_prob = np.array([row.pop("log_prob") for row in made[name]])
        first = log_prob if name == "a" else first
        assert np.abs(log_prob - first).max() < 1e-5
        assert made[name] == made["a"]
    starts = {row["prompt_id"]: "".join("abc>_"[token] for token in row["start"]) for row in made["a"]}
    assert starts == dict(enumerate(infill.STARTS["train"]))
    for row in made["a"]:
        for token, start, step in zip(row["tokens"], row["start"], row["unmask_step"], strict=True):
            assert (start == 4) == (step >= 0) and token in ((0, 1, 2, 3) if start == 4 else (start,))
    run = run_of()
    stages(reference, run, rollouts="a/0.parquet", base="r/p", round=1, shard=0, replay=24, out="references.parquet")
    found = parquet.read([stages.work / "references.parquet"], parquet.REFERENCES).sort_by("state_id").to_pylist()
    replayed = {(row["state_id"], row["sample_id"]): row["base_log_prob"] for row in found}
    for row, log_prob in zip(made["a"], first, strict=True):
        assert replayed[row["state_id"], row["sample_id"]] == pytest.approx(log_prob, abs=1e-5)
    files = {"rollouts": [stages.work / "a/0.parquet"], "references": [stages.work / "references.parquet"]}
    stages(adjoint, run, **files, previous_targets=None, policy="r/p", round=1, out="t.parquet", summary="adjoint.json")
    arguments = {"targets": "t.parquet", "policy": "r/p", "base": "r/p", "round": 1, "optimizer": None}
    out = {"out": "q/1/policy", "optimizer_out": "q/1/o", "summary": "train.json", "checkpoint": "checkpoint"}
    stages(train, run, **arguments, **out)
    assert len(json.loads((stages.work / "train.json").read_text())["losses"]) == 2
    items = [stages.work / "items/test.parquet"]
    stages(evaluate, run, items=items, answers=[], policy="q/1/policy", round=1, out="evaluation.json")
    samples = json.loads((stages.work / "evaluation.json").read_text())["splits"]["test"]["greedy"]["samples"]
    for start, sample in zip(infill.STARTS["test"], samples, strict=True):
        assert sample["puzzle"] == start and len(sample["answer"]) == 4
        assert all(token in ("_", shown) for token, shown in zip(start, sample["answer"], strict=True))


@pytest.mark.parametrize(
    ("item", "hole", "message"),
    [
        (Item(">", ""), "_", "item 0 of the split 'train' needs a start with a hole, '_' (Task.hole), not ''"),
        (
            Item(">", "", start="abca"),
            "_",
            "item 0 of the split 'train' needs a start with a hole, '_' (Task.hole), not ",
        ),
        (
            Item(">", "", start="a__b"),
            "",
            "item 0 of the split 'train' needs no start unless the task names a hole, not",
        ),
        (Item(">", "", start="a__c"), "_", "item 0 of the split 'train' is also held out for testing: 'a__c'"),
        (
            Item(">", "", start="a____"),
            "_",
            "the start of item 0 of the split 'train' has 5 tokens, but answers have 4 at",
        ),
        (
            Item(">", "", start="d__a"),
            "_",
            "the start of item 0 of the split 'train' is outside the model's vocabulary: 'd'",
        ),
    ],
)
def test_starts_are_checked_before_the_base_is_made(tmp_path, monkeypatch, item, hole, message):
    def items(settings: infill.Infill, seed: int) -> dict[str, list[Item]]:
        return infill.items(settings, seed) | {"train": [item]} | ({} if hole else {"test": [Item("?", "")]})

    monkeypatch.setattr(infill, "PLUGIN", dataclasses.replace(infill.PLUGIN, items=items, hole=hole))
    stages = Stages(tmp_path)
    with pytest.raises(PipelineError) as refused:
        stages(prepare, run_of(), out="items")
        limits = {"train": [["", 4]], "held_out": [["", 4]]}
        stages(base, run_of(), items="items/base.parquet", limits=limits, out="p", summary="s", checkpoint="checkpoint")
    assert str(refused.value).startswith(message)


def test_lengths_of_starts_are_their_own():
    for section in ({"rollout": {"length": 4}}, {"evaluate": {"lengths": [4]}}):
        with pytest.raises(PipelineError, match="start partly revealed and have the length of their start"):
            parse_params({"default_run": "a", "runs": {"a": PARAMS | section}})
    fixed = PARAMS | {"model": {"name": "mlp"}}
    assert parse_params({"default_run": "a", "runs": {"a": fixed}})
