"""Real processes that share a pool of devices: never two on one, and a killed one frees its own."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.runtime import devices
from tests.conftest import ROOT, said
from tests.forks import SECONDS

JOB = """
import json, os, sys, time
from pipeline.runtime import devices
devices.hold()
begun = time.monotonic()
time.sleep(float(sys.argv[1]))
print(json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], begun, time.monotonic()]), flush=True)
"""


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Four devices, and the directory of their locks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(devices.VISIBLE, "0,1,2,3")
    monkeypatch.setenv(devices.POOL, "")  # so that the end of the test restores it
    devices.share(["0", "1", "2", "3"])
    return Path(json.loads(os.environ[devices.POOL])[0])


def job(needed: int, seconds: float = 0.3) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), devices.NEEDED: str(needed)}
    command = [sys.executable, "-c", JOB, str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    """After the line in which a job says that it waits, which it does if that takes long."""
    assert process.stdout
    while (line := process.stdout.readline()).startswith("waiting for "):
        pass
    return line.strip()


@pytest.mark.usefixtures("pool")
def test_never_two_jobs_on_one_device():
    """Twelve jobs of one device and two of all four, started at once."""
    running = [job(4 if number in (5, 9) else 1) for number in range(14)]
    held = [json.loads(process.communicate(timeout=SECONDS)[0].splitlines()[-1]) for process in running]
    of_device: dict[str, list[tuple[float, float]]] = {}
    for names, begun, ended in held:
        for name in names.split(","):
            of_device.setdefault(name, []).append((begun, ended))
    assert sorted(of_device) == ["0", "1", "2", "3"]
    assert [names for names, _, _ in held if len(names) > 1] == ["0,1,2,3"] * 2
    for times in of_device.values():
        times.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(times))


def test_a_killed_job_frees_its_devices(pool: Path):
    """The next in the queue is one that needs them all; the locks are files of this user in a directory of its own."""
    one, three = job(1, 1000), job(3, 1000)
    names = {first_line(process).split()[1] for process in (one, three)}
    assert names in ({"0", "1,2,3"}, {"3", "0,1,2"})
    waiting = job(4)
    time.sleep(1)
    assert waiting.poll() is None and not select.select([waiting.stdout], [], [], 0)[0]
    one.kill()
    three.send_signal(signal.SIGTERM)
    assert first_line(waiting).startswith("device 0,1,2,3 since ")
    assert waiting.wait(SECONDS) == 0
    assert pool.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in pool.iterdir()) == ["0", "1", "2", "3", "queue"]
    for process in (one, three, waiting):
        process.communicate(timeout=SECONDS)


@pytest.mark.usefixtures("pool")
def test_the_lock_is_the_stage_s(tmp_path: Path):
    """Launched as a process of its own: what replaces the launcher holds the lock, what it starts itself does not."""
    (tmp_path / "stage.py").write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), devices.NEEDED: "4"}
    command = [sys.executable, "-m", "pipeline.runtime.launch", "0", "stage"]
    stage = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert first_line(stage).startswith("device 0,1,2,3 since ")
    child = int(first_line(stage))
    waiting = job(1)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    stage.kill()
    assert first_line(waiting).startswith("device 0 since ")
    waiting.communicate(timeout=SECONDS)
    os.kill(child, signal.SIGKILL)
    stage.communicate()


def test_the_directory_of_another_user_is_refused(pool: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(devices.NEEDED, "1")
    pool.symlink_to(tmp_path)
    assert said(devices.hold) == f"{pool}: belongs to another user; set TMPDIR to a directory of your own"
    pool.unlink()
    pool.touch()
    assert str(pool) in said(devices.hold)


def test_machines_that_share_a_directory_for_temporary_files_have_pools_of_their_own(pool: Path, monkeypatch):
    """Device 0 of one is not device 0 of the other, and a network file system passes locks on."""
    monkeypatch.setattr(devices.platform, "node", lambda: "other")
    devices.share(["0"])
    assert json.loads(os.environ[devices.POOL])[0] != str(pool)


def test_jobs_without_need_or_pool_take_none(pool: Path, monkeypatch: pytest.MonkeyPatch):
    assert devices.hold() == []
    monkeypatch.setenv(devices.NEEDED, "1")
    monkeypatch.delenv(devices.POOL)
    assert devices.hold() == []
    assert not pool.exists()
    devices.share([])
    assert devices.POOL not in os.environ


@pytest.mark.parametrize(
    ("visible", "wanted", "found"),
    [
        (None, None, ["0", "1", "2"]),
        ("2,GPU-8e", None, ["2", "GPU-8e"]),
        ("2, 1", 1, ["2"]),
        ("1,-1,2", None, ["1"]),
        ("", None, []),
        ("", 2, ["0", "1"]),
        (None, 0, []),
    ],
)
def test_the_devices_are_those_that_cuda_shows(monkeypatch, tmp_path, visible, wanted, found):
    """On a machine with three GPUs. Hidden ones, or none, can be counted as if they were there, to limit jobs."""
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "FILES", tmp_path)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(devices.VISIBLE, visible)
    assert devices.devices_of(wanted) == found


def test_more_devices_than_gpus_stop(monkeypatch, tmp_path):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(devices, "FILES", tmp_path)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    with pytest.raises(PipelineError, match=r"hardware.devices is 2, but this machine shows 1 GPUs"):
        devices.devices_of(2)
