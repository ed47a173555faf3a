"""A run's numbers are those of its settings."""

import json
import subprocess
import sys

from tests.conftest import ROOT, Stage


def report(stage: Stage, **changes: object) -> dict:
    done = stage(stage.command("report", **changes))
    assert done.returncode == 0, done.stderr
    return json.loads((stage.out / "metrics.json").read_text())


def test_what_other_settings_have_left_behind_does_not_count(stage):
    """An evaluation that is no longer asked for may be one of another policy; a shard's time one of other rollouts."""

    def seconds(*stages: str) -> float:
        timings = stage.run / "timings"
        return sum(json.loads((timings / f"{name}.json").read_text())["cpu_seconds"] for name in stages)

    everything = report(stage)
    assert [entry["round"] for entry in everything["evaluations"]] == [0, 1, 2]
    less = report(stage, evaluate={"every": 2}, rollout={"shards": 1})
    assert [entry["round"] for entry in less["evaluations"]] == [0, 2]
    assert {row["round"] for row in less["results"]} == {0, 2}
    left = seconds("evaluate_001", "rollout_001_01", "rollout_002_01")
    assert abs(everything["time"]["cpu_seconds"] - less["time"]["cpu_seconds"] - left) < 1e-6
    shorter = report(stage, rounds=1)
    assert shorter["final"] == {key: everything["rounds"][0][key] for key in everything["final"]}
    assert shorter["time"]["cpu_seconds"] < everything["time"]["cpu_seconds"]


def test_comparing_runs_needs_no_pytorch():
    code = "import sys, pipeline.stages.compare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
