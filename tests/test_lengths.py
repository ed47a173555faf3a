"""Embedded models with answers of several lengths, through the whole workflow."""

import json

from pipeline.storage import parquet
from tests.small_workflow import Workflow


def test_trained_at_two_lengths_tested_at_three(workflow: Workflow):
    """Both runs share a base; rollouts have the run's own length; results and the suite's table show every length."""
    workflow.params["defaults"] |= {"rounds": 1}
    workflow.params["defaults"]["task"]["hard_items"] = 0
    workflow.params["defaults"]["base"] |= {"lengths": [16, 24], "updates": 30}
    workflow.params["defaults"]["evaluate"] |= {"lengths": [16, 20, 24], "samplers": ["greedy"]}
    workflow.params["runs"] = {"small": {}, "longer": {"rollout": {"length": 24}}}
    workflow.params["suites"] = {"both": {"runs": ["small", "longer"]}}
    workflow("both")
    runs = workflow.directory / "data" / "runs"
    assert not (runs / "longer" / "items").exists()
    for run, length in ("small", 16), ("longer", 24):
        metrics = json.loads((runs / run / "metrics.json").read_text())
        rows = [(row["round"], row["split"], row["length"]) for row in metrics["results"]]
        assert rows == [(k, "test", tested) for k in (0, 1) for tested in (16, 20, 24)]
        shards = sorted((runs / run / "round_001" / "rollouts").glob("*.parquet"))
        assert parquet.matrix(parquet.read(shards, parquet.ROLLOUTS), "tokens").shape[1] == length
    assert "| run | seeds | 16 | 20 | 24 |" in (workflow.directory / "data/results/both.md").read_text()
