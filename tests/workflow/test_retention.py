"""Pruning old rounds: a pruned run counts as finished, and can be extended like one that was not pruned."""

import shutil

import pytest

from pipeline.settings.project import Keep
from pipeline.workflow.retention import may_be_removed, prune
from tests.small_workflow import Workflow

LAST_ROUND = {"rollout": 2, "reference": 2, "adjoint": 1, "train": 1, "evaluate": 1, "report": 1}


def rounds(workflow: Workflow, name: str) -> list[str]:
    return [path.parent.name for path in sorted(workflow.run_directory.glob(f"round_*/{name}"))]


def undisturbed(workflow: Workflow) -> dict:
    """The metrics without the bytes on disk."""
    return {key: value for key, value in workflow.metrics().items() if key != "disk"}


def test_the_report_says_what_lies_on_disk(finished):
    run, disk = finished.run_directory, finished.metrics()["disk"]
    assert disk["optimizer"] == sum(path.stat().st_size for path in run.glob("round_*/optimizer.safetensors"))
    assert disk["buffers"] == sum(path.stat().st_size for path in run.rglob("*.parquet") if "items" not in path.parts)
    assert "MB of optimiser states" in (run / "report.html").read_text(encoding="utf-8")


def test_a_pruned_run_is_extended_as_any_other(copied, finished):
    """Neither an interrupted nor a complete removal makes anything stale, and the next round is the same."""
    (copied.run_directory / "round_001" / "rollouts" / "00.parquet").unlink()
    assert copied.pending() == {}
    prune(copied.run_directory, 2, Keep(buffers=1))
    assert rounds(copied, "rollouts") == rounds(copied, "targets") == ["round_002"]
    assert copied.pending() == {}
    copied.params |= {"keep": {"buffers": 1}, "defaults": {**copied.params["defaults"], "rounds": 3}}
    assert copied.pending() == LAST_ROUND
    copied()
    assert rounds(copied, "rollouts") == rounds(copied, "optimizer.safetensors") == ["round_003"]
    assert copied.pending() == {}
    other = Workflow(copied.directory.parent / "other")
    shutil.copytree(finished.directory, other.directory, symlinks=True)
    other.params |= {"keep": {}, "defaults": copied.params["defaults"]}
    other()
    assert rounds(other, "rollouts") == ["round_001", "round_002", "round_003"]
    assert rounds(other, "optimizer.safetensors") == ["round_003"]
    assert undisturbed(other) == undisturbed(copied)


@pytest.mark.parametrize(("newest", "left"), [(0, [1, 2, 3]), (2, [1, 2, 3]), (3, [2, 3]), (9, [])])
def test_rounds_are_counted_back_from_the_newest(tmp_path, newest, left):
    for number in (0, 1, 2, 3):
        (tmp_path / f"round_{number:03d}" / "rollouts").mkdir(parents=True)
    prune(tmp_path, newest, Keep(buffers=2))
    assert [number for number in (1, 2, 3) if (tmp_path / f"round_{number:03d}" / "rollouts").exists()] == left
    assert (tmp_path / "round_000" / "rollouts").exists()


def test_only_logs_and_pruned_files_may_be_removed():
    assert may_be_removed("round_001/rollouts/00.parquet") and may_be_removed("logs/base.log")
    assert not may_be_removed("round_notes.txt") and not may_be_removed("round_001/policy/config.json")
