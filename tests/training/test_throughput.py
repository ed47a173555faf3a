"""Stages say how fast they were: in their log, in their timing, in metrics.json and in the report."""

import json

import pytest

from pipeline.models.flops import Shape
from pipeline.training.speed import speed, speed_in_words
from tests.small_workflow import Workflow

FAST = {"tokens": 100, "seconds": 2.0, "flops": 4e12, "peak": 10e12}


def test_speed():
    """Stages add up; a share of the peak needs a GPU, operations a model with known formulas."""
    assert speed([FAST, FAST]) == {"tokens_per_second": 50.0, "tflops": 2.0, "share_of_peak": 0.2}
    assert speed_in_words(speed([FAST])) == "50 tokens/s, 2 TFLOP/s, 20% of the peak"
    assert speed([{**FAST, "peak": None}]).keys() == {"tokens_per_second", "tflops"}
    assert speed_in_words(speed([{**FAST, "flops": 0.0}])) == "50 tokens/s"


def test_stages_measure_what_they_did(finished: Workflow):
    """16 prompts x 4 completions of 16 tokens; each state of 33 tokens passes 8 times, two tokens read in each."""
    run = finished.run_directory
    shards = [json.loads((run / "timings" / f"rollout_001_0{shard}.json").read_text()) for shard in (0, 1)]
    assert sum(shard["measured"]["tokens"] for shard in shards) == 16 * 4 * 16
    shape = Shape.of(json.loads((run / "round_000" / "policy" / "config.json").read_text()))
    flops = sum(shard["measured"]["flops"] for shard in shards)
    assert flops == pytest.approx(16 * 4 * shape.forward(8, 33, 16))
    train = json.loads((run / "timings" / "train_001.json").read_text())["measured"]
    assert train["tokens"] == 8 * 32 * 33 and train["flops"] > 3 * shape.forward(8 * 32, 33, 0)
    assert train["seconds"] > 0 and train["peak"] is None
    speeds = json.loads((run / "metrics.json").read_text())["time"]["speed"]
    assert speeds.keys() == {"rollout", "reference", "train"} and all(found["tflops"] > 0 for found in speeds.values())
    assert speed_in_words(speeds["train"]) in (run / "report.html").read_text()
    assert "tokens/s" in (run / "logs" / "rollout_001_00.log").read_text()
