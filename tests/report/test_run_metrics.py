"""A run's numbers: those that its settings ask for, each under its own name."""

import json
import subprocess
import sys

from pipeline.report.run_metrics import selected_round
from pipeline.report.seed_average import learning_curve
from tests.conftest import ROOT
from tests.small_workflow import Stage


def report(stage: Stage, **changes: object) -> dict:
    stage(stage.command("report", **changes))
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
    shards = [f"{stage}_{number}_01" for stage in ("rollout", "reference") for number in ("001", "002")]
    left = seconds("evaluate_001", *shards)
    assert abs(everything["time"]["cpu_seconds"] - less["time"]["cpu_seconds"] - left) < 1e-6
    shorter = report(stage, rounds=1)
    evaluation = everything["evaluations"][1]["splits"]["test"]["greedy"]
    assert shorter["final"] == {key: evaluation[key] for key in everything["final"]}
    assert shorter["time"]["cpu_seconds"] < everything["time"]["cpu_seconds"]


def test_metrics_do_not_replace_keys_of_the_round(stage):
    """`reward_se` of a round belongs to its `reward_mean`, over rollouts; a metric may even be called `loss`."""
    adjoint, evaluation = (stage.run / "round_001" / f"{name}.json" for name in ("adjoint", "evaluation"))
    adjoint.write_text(json.dumps(json.loads(adjoint.read_text()) | {"reward_mean": 0.5, "reward_se": 0.25}))
    content = json.loads(evaluation.read_text())
    content["splits"]["test"]["greedy"] |= {"reward": 0.75, "reward_se": 0.125, "loss": 9.0, "loss_se": 1.0}
    evaluation.write_text(json.dumps(content))
    metrics = report(stage)
    first = metrics["rounds"][0]
    assert [first[key] for key in ("reward_mean", "reward_se", "reward")] == [0.5, 0.25, 0.75]
    assert first["loss"] == sum(first["losses"]) / len(first["losses"])
    on_test = metrics["evaluations"][1]["splits"]["test"]["greedy"]
    assert (on_test["reward_se"], on_test["loss"]) == (0.125, 9.0)
    assert "0.500 ± 0.250" in (stage.out / "report.html").read_text()
    point = learning_curve([metrics])[1]
    assert (point["reward"], point["reward_se"]) == (0.75, 0.125)


def test_comparing_runs_needs_no_pytorch():
    code = "import sys, pipeline.stages.compare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_round_that_the_validation_split_selects():
    """The best there, the earliest of equals; the numbers are the test split's."""

    def evaluation(n: int, accuracy: float) -> dict:
        return {"greedy": {"n": n, "accuracy": accuracy, "accuracy_se": 0.1, "groups": {}}}

    found = [
        {"round": k, "splits": {"validation": evaluation(4, best), "test": evaluation(8, k / 10)}}
        for k, best in enumerate((0.1, 0.5, 0.5))
    ]
    best = {"round": 1, "validation_accuracy": 0.5, "n": 8, "accuracy": 0.1, "accuracy_se": 0.1}
    assert selected_round(found) == best
    assert selected_round([{"round": 0, "splits": {"test": evaluation(8, 0.0)}}]) is None
