"""A workflow on eight devices, none of them real: each job of a model has one to itself, and all are kept busy."""

import json
import re
import time
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil
import pyarrow as pa
import pytest

from pipeline.runtime.devices import VISIBLE
from pipeline.storage import parquet
from tests.forks import SECONDS
from tests.small_workflow import Workflow

SHARDS, DECODERS, DEVICES = 24, 8, 8


class Job(NamedTuple):
    """When a job got its devices, and when it had its outputs; in seconds since the epoch."""

    devices: list[str]
    begun: float
    ended: float


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "")


def configured(directory: Path, *, devices: int, shards: int, decoders: int) -> Workflow:
    directory.mkdir()
    workflow = Workflow(directory)
    defaults = workflow.params["defaults"]
    defaults |= {"rounds": 1, "base": {**defaults["base"], "updates": 20}}
    defaults["rollout"] |= {"prompts": SHARDS, "batch_size": 4, "shards": shards}  # a batch for each shard
    defaults["evaluate"] |= {"batch_size": 16, "shards": decoders}
    workflow.params["hardware"] |= {"devices": devices}
    return workflow


def jobs(workflow: Workflow) -> dict[str, Job]:
    """By the name of their log, those that held devices."""
    held = {}
    for log in (workflow.run_directory / "logs").glob("*.log"):
        if found := re.search(r"^device (\S+) since (\S+)$", log.read_text(), re.MULTILINE):
            timing = json.loads((workflow.run_directory / "timings" / f"{log.stem}.json").read_text())
            held[log.stem] = Job(found[1].split(","), datetime.fromisoformat(found[2]).timestamp(), timing["finished"])
    return held


def rows(workflow: Workflow, folder: str, schema: pa.Schema) -> pa.Table:
    """Those of round 1, in the order of states and samples."""
    files = sorted((workflow.run_directory / "round_001" / folder).iterdir())
    return parquet.read(files, schema).sort_by([("state_id", "ascending"), ("sample_id", "ascending")])


def kill_a_stage(snakemake: int) -> str:
    """SIGKILL to the first process of a stage that computes with a device, the base's; the name of its device."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for process in psutil.Process(snakemake).children(recursive=True):
            try:
                server, command = process.parent(), process.cmdline()
                forked = server and "serve" in server.cmdline() and "serve" in command
                locks = [file.path for file in process.open_files() if "/dam-devices-" in file.path] if forked else []
                if len(locks) == 1 and process.cpu_times().user > 0.05:
                    process.kill()
                    return Path(locks[0]).name
            except psutil.Error:
                continue
        time.sleep(0.01)
    raise AssertionError("no stage has held a device")


def ready(name: str, held: Mapping[str, Job]) -> float:
    """When the files were there from which a job of one device starts."""
    if name.startswith("reference"):
        return held[name.replace("reference", "rollout")].ended
    return held["train_001" if name.startswith("evaluate_001") else "base"].ended


def idle_although(waiting: Mapping[str, float], held: Mapping[str, Job]) -> list[float]:
    """The seconds of each pause of a device during which some job was waiting; `waiting`: since when each was."""
    pauses = []
    for device in {device for job in held.values() for device in job.devices}:
        own = sorted(job for job in held.values() if device in job.devices)
        for before, after in pairwise(sorted(own, key=lambda job: job.begun)):
            assert before.ended <= after.begun, f"two jobs at once on device {device}"
            overlaps = [min(after.begun, held[name].begun) - max(before.ended, waiting[name]) for name in waiting]
            pauses.append(max(0.0, *overlaps))
    return pauses


def test_eight_devices(tmp_path: Path):
    many = configured(tmp_path / "many", devices=DEVICES, shards=SHARDS, decoders=DECODERS)
    running = many.start("--cores", "8", "--retries", "1")
    killed = kill_a_stage(running.pid)
    moment = time.time()
    assert running.wait(timeout=SECONDS) == 0, (many.directory / "out").read_text()[-3000:]
    said = (many.directory / "out").read_text()
    assert said.count("error: the stage was killed") == 1

    held = jobs(many)
    assert len(held) == len({"base", "train"}) + 2 * SHARDS + 2 * DECODERS
    assert all(len(job.devices) == 1 for job in held.values())
    assert {device for job in held.values() for device in job.devices} == {str(number) for number in range(DEVICES)}
    assert [name for name, job in held.items() if job.devices == [killed] and job.begun > moment]
    at_once = [sum(job.begun <= other.begun < job.ended for job in held.values()) for other in held.values()]
    assert max(at_once) == DEVICES
    waiting = {name: ready(name, held) for name in held if name not in ("base", "train_001")}
    longest = max(held[name].ended - held[name].begun for name in waiting)
    # Snakemake and the launcher take less than a short job; the median, since a busy machine may stall any one of them
    assert median(idle_although(waiting, held)) < longest

    alone = configured(tmp_path / "alone", devices=1, shards=1, decoders=1)
    alone()
    assert {tuple(job.devices) for job in jobs(alone).values()} == {("0",)}
    for file in ("round_000/evaluation.json", "round_001/evaluation.json"):
        assert (alone.run_directory / file).read_bytes() == (many.run_directory / file).read_bytes()
    for folder, schema in (
        ("rollouts", parquet.ROLLOUTS),
        ("references", parquet.REFERENCES),
        ("targets", parquet.TARGETS),
    ):
        assert rows(alone, folder, schema).equals(rows(many, folder, schema))


def commands(workflow: Workflow) -> dict[str, set[str]]:
    """The launchers of a dry run's jobs, up to the name of the stage, by stage."""
    found: dict[str, set[str]] = {}
    for line in workflow("--dry-run", "--quiet", "host", "--printshellcmds").splitlines():
        if match := re.search(
            r"((?:JOB_DEVICES=\d+ )?)\S+ -m pipeline\.runtime\.launch (\d+) pipeline\.stages\.(\w+)", line
        ):
            found.setdefault(match[3], set()).add(match[1] + match[2])
    return found


def test_what_each_stage_asks_for(tmp_path: Path):
    """Training takes as many devices as it has processes, at most all; jobs without a model take none."""
    workflow = configured(tmp_path / "run", devices=8, shards=2, decoders=2)
    workflow.params["hardware"] |= {"processes": 16, "preload": False}
    one, none, all_ = {"JOB_DEVICES=1 0"}, {"0"}, {"JOB_DEVICES=8 8"}
    stages = {"base": all_, "rollout": one, "reference": one, "adjoint": none, "train": all_}
    stages |= {"prepare": none, "decode": one, "evaluate": none, "report": none}
    assert commands(workflow) == stages
    workflow.params["defaults"]["evaluate"]["shards"] = 1
    assert commands(workflow)["evaluate"] == one
    workflow.params["hardware"]["devices"] = 0
    assert commands(workflow)["train"] == {"16"} and commands(workflow)["rollout"] == none
    picture = {"task": {"name": "checkerboard"}, "model": {"name": "tabular"}, "base": {"exact": True}}
    workflow.params["defaults"] |= {**picture, "algorithm": {"weights": "direct"}, "train": {}}
    assert commands(workflow)["base"] == none


def test_jobs_of_a_cluster_without_one(copied: Workflow):
    """With --jobs a local Snakemake hands out no devices, which is said."""
    copied.params["hardware"] |= {"devices": 2}
    (copied.run_directory / "report.html").unlink()
    warning = "all jobs use the first GPU: give --cores alone, without --jobs"
    assert warning in copied("--jobs", "2")
    (copied.run_directory / "report.html").unlink()
    assert warning not in copied()
