"""Trackers: one curve of a run that was killed and continued, with the numbers of its files."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.report import track
from pipeline.report.curves import Record, records
from pipeline.workflow.tracking import Follower
from tests.forks import SECONDS

UPDATES = 8


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) as TensorBoard reads them, repeated ones included."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def same(found: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> bool:
    """The same steps, each as often, and the same values; event files hold them in float32."""
    values = pytest.approx([value for _, value in wanted], rel=1e-6)
    return [step for step, _ in found] == [step for step, _ in wanted] and [value for _, value in found] == values


def is_one_curve(folder: Path, run: Path, rounds: int = 2) -> None:
    """Every point of the rounds once, with the numbers in the run's files."""
    found = {tag: sorted(points) for tag, points in curves(folder).items()}

    def read(name: str, first: int = 1) -> list[dict[str, Any]]:
        return [json.loads((run / f"round_00{k}" / name).read_text()) for k in range(first, rounds + 1)]

    losses = [loss for made in read("train.json") for loss in made["losses"]]
    assert len(losses) == rounds * UPDATES and same(found["train/loss"], list(enumerate(losses, start=1)))
    for key in ("reward_mean", "ess_mean", "tau", "kl_to_base"):
        wanted = [(UPDATES * k, made[key]) for k, made in enumerate(read("adjoint.json"))]
        assert same(found[f"rollout/{key}"], wanted)
    splits = [made["splits"] for made in read("evaluation.json", first=0)]
    for name in ("grid_accuracy", "grid_accuracy_se", "reward"):
        wanted = [(UPDATES * k, split["test"]["greedy"][name]) for k, split in enumerate(splits)]
        assert same(found[f"test/greedy/{name}"], wanted)
    assert [step for step, _ in found["speed/train_tokens_per_second"]] == [UPDATES * k for k in range(rounds)]


def test_a_killed_run_is_one_curve(workflow):
    """Snakemake and the tracker are killed when the first event file of a round is there, and started again with one
    round more: the second start has something to send even where the first was killed at its end."""
    workflow.params["hardware"]["track"] = "tensorboard"
    workflow.params["defaults"]["rounds"] = 1
    folder = workflow.directory / "data" / "tracking" / "tensorboard" / "small"
    running, deadline = workflow.start(), time.monotonic() + SECONDS
    while not list(folder.glob("*.train_001.*")):
        assert time.monotonic() < deadline, (workflow.directory / "out").read_text()[-2000:]
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    before = {file.name for file in folder.iterdir()}
    workflow.params["defaults"]["rounds"] = 2
    workflow("--nolock")
    assert before < {file.name for file in folder.iterdir()}
    is_one_curve(folder, workflow.run_directory)
    assert (workflow.directory / "data" / "tracking" / "log").read_text() == ""
    workflow.params["hardware"]["track"] = None
    assert workflow.pending() == {}


@pytest.fixture
def run(finished, tmp_path, monkeypatch) -> Path:
    """A finished run of two rounds, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished.run_directory, tmp_path / "data" / "runs" / "small"))


def test_what_is_there_is_not_written_again(run):
    """Killed after any record, or while it was written; and a round that was computed anew."""
    folder, found = track.ROOT / "tensorboard" / "small", list(records(run))
    assert [record.name for record in found] == [
        *("evaluate_000", "train_001", "evaluate_001", "train_002", "evaluate_002"),
    ]
    for number in range(1, len(found) + 1):
        track.EventFiles("small").send(found[:number])
        (track.ROOT / ".small.tmp" / "half.tfevents").write_bytes(b"half")
    names = {file.name for file in folder.iterdir()}
    track.EventFiles("small").send(found)
    assert {file.name for file in folder.iterdir()} == names and len(names) == len(found)
    is_one_curve(folder, run)
    losses = [float(k) for k in range(UPDATES)]
    (run / "round_002" / "train.json").write_text(json.dumps({"losses": losses}))
    track.look(run, track.EventFiles("small"), [])
    assert len(names & {file.name for file in folder.iterdir()}) == len(found) - 1
    is_one_curve(folder, run)


def test_servers_get_each_record_once_and_in_order(run, monkeypatch):
    """With a list in the place of trackio or W&B, which send to a server."""
    opened: dict[str, list[tuple[int, dict]]] = {}

    class Log:
        def __init__(self, name: str):
            self.points = opened.setdefault(name, [])

        def log(self, values: dict, step: int) -> None:
            self.points.append((step, values))

    monkeypatch.setattr(track.Server, "open", lambda self, name: Log(name))
    evaluation = run / "round_001" / "evaluation.json"
    content = evaluation.read_text()
    evaluation.unlink()
    track.look(run, track.Server("wandb", "small"), [0, 1, 2])
    (points,) = opened.values()
    assert [step for step, _ in points] == [0, 0, *range(1, UPDATES + 1)]  # round 2 waits for the evaluation of round 1
    evaluation.write_text(content)
    for _ in range(2):
        track.look(run, track.Server("wandb", "small"), [0, 1, 2])
    steps = [step for step, _ in points]
    assert len(opened) == 1 and steps == sorted(steps) and len(points) == 3 + 2 + 2 * UPDATES
    evaluation.write_text(content.replace("0.", "1."))
    track.look(run, track.Server("wandb", "small"), [0, 1, 2])
    assert len(opened) == 2 and len(points) == 3 + 2 + 2 * UPDATES == len(opened[max(opened, key=list(opened).index)])


def test_it_is_never_a_reason_to_fail(run, capsys, monkeypatch):
    """A tracker that is not installed, a file that is being written, and a tracker that raises."""
    monkeypatch.setattr("pipeline.workflow.tracking.find_spec", lambda name: None)
    follower = Follower("wandb")
    follower.start({"small"})
    follower.stop()
    assert "note: hardware.track: wandb is not installed, so nothing is tracked" in capsys.readouterr().err
    (run / "round_001" / "train.json").write_text("{")
    monkeypatch.setattr("sys.argv", ["track", str(run), "--to", "tensorboard"])
    with pytest.raises(SystemExit) as stop:
        track.main()
    assert stop.value.code == 1 and capsys.readouterr().err.startswith("small: not tracked: PipelineError: cannot read")


def test_records_end_where_training_does(run):
    shutil.rmtree(run / "round_001")
    assert [record.name for record in records(run)] == ["evaluate_000"]
    assert all(isinstance(record, Record) for record in records(run))
