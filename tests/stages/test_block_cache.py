"""Rollouts with a block cache through the stages: recorded, replayed under the base, counted, estimated, evaluated."""

import json

import numpy as np
import pytest

from pipeline.settings.inheritance import merge
from pipeline.settings.params_file import parse_params
from pipeline.settings.project import Hardware
from pipeline.storage import parquet
from pipeline.workflow.estimate import Estimate, shape_of
from tests.small_workflow import SMALL, Stage

CACHE = {"block_length": 8, "cache": "block"}


@pytest.mark.facts
def test_ratios_of_a_policy_with_itself_are_one(stage: Stage):
    """Rollouts of a base, replayed by rule `reference` under the cache; operations as the estimate has them.

    It has two layers: the first layer's keys and values depend on no other position, so with one the cache is exact.
    """

    def run(name: str, **changes: object) -> None:
        places = {str(stage.run / "round_000" / "policy"): str(stage.out / "policy")}
        stage([places.get(word, word) for word in stage.command(name, **changes)])

    model, rollout = {"num_hidden_layers": 2, "initializer_range": 0.3}, {**CACHE, "shards": 1}
    run("base", model=model, base={"updates": 1})
    run("rollout", model=model, rollout=rollout)
    measured = json.loads((stage.out / "timing.json").read_text())["measured"]["flops"]
    assert measured == pytest.approx(estimated(model=model, rollout=rollout).rollout().flops, rel=0.1)
    shard = stage.run / "round_001" / "rollouts" / "00.parquet"
    (stage.out / "00.parquet").rename(shard)
    recorded = parquet.matrix(parquet.read([shard], parquet.ROLLOUTS), "log_prob")
    difference = {}
    for cache in ("block", None):
        run("reference", model=model, rollout={**rollout, "cache": cache})
        replayed = parquet.matrix(parquet.read([stage.out / "00.parquet"], parquet.REFERENCES), "base_log_prob")
        difference[cache] = np.abs(replayed - recorded).max()
    assert difference["block"] < 1e-4 and difference[None] > 1e-2


def estimated(**changes: dict[str, object]) -> Estimate:
    run = parse_params(merge(SMALL, {"defaults": changes})).runs["small"]
    shape = shape_of(run)
    assert shape is not None
    return Estimate(run, Hardware(processes=1), shape)


def test_evaluation_says_that_it_used_a_cache(stage: Stage):
    """In every row of results, which metrics.json takes over."""
    for settings in ({}, CACHE):
        stage(stage.command("evaluate", evaluate=settings))
        rows = json.loads((stage.out / "evaluation.json").read_text())["rows"]
        assert len(rows) == 2 and all(row["cache"] == settings.get("cache") for row in rows)


@pytest.mark.parametrize("stage_name", ["rollout", "reference", "evaluate"])
def test_a_model_without_cache_stops_before_it_is_opened(line, stage_name):
    section = "evaluate" if stage_name == "evaluate" else "rollout"
    found = line(stage_name, model={"name": "mlp"}, **{section: CACHE})
    assert found == f"{section}.cache: this model keeps no keys and values; set this key to null"
