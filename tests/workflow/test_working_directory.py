"""What happens to the directory from outside: the clock is set back, it is read-only, a second Snakemake comes."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.workflow.working_directory import settle
from tests.conftest import Workflow

DAY = 86400
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
SECOND_ROUND = {"rollout": 2, "adjoint": 1, "train": 1, "evaluate": 1, "report": 1}


@pytest.fixture
def halfway(finished: Workflow, tmp_path: Path) -> Workflow:
    """The finished workflow without its last round and its report."""
    workflow = Workflow(tmp_path / "copy")
    shutil.copytree(finished.directory, workflow.directory, symlinks=True)
    shutil.rmtree(workflow.run_directory / "round_002")
    for name in ("report.html", "metrics.json", "learning_curve.svg"):
        (workflow.run_directory / name).unlink()
    return workflow


def test_a_clock_that_was_set_back_changes_nothing(finished, halfway):
    """What was written by the old clock is not newer than what the new one says: nothing is stale, no job refused."""
    for path in halfway.run_directory.rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime + DAY))
    assert halfway.pending() == SECOND_ROUND
    halfway()
    assert halfway.metrics() == finished.metrics()
    assert halfway.pending() == {}


def test_files_from_the_future_keep_their_order(tmp_path):
    ages = {"a": DAY, "b": 2 * DAY, "c": -1, "d": 1, "e": -DAY}
    for name, age in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, time.time() + age))
    settle(tmp_path)
    assert sorted(ages, key=lambda name: (tmp_path / name).stat().st_mtime_ns) == ["e", "c", "d", "a", "b"]
    assert all((tmp_path / name).stat().st_mtime <= time.time() for name in ages)


def test_a_second_snakemake_is_refused(finished, halfway):
    """While one runs, held up here, another one stops at its lock, and a dry run may look on; neither disturbs it."""
    first = halfway.start()
    deadline = time.monotonic() + 120
    while not list((halfway.run_directory / "round_002").glob("rollouts/*.parquet")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)
    assert "Directory cannot be locked" in halfway(ok=False)
    halfway("--dry-run")
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=300) == 0
    assert halfway.metrics() == finished.metrics()


def without_privilege() -> None:
    """Permissions hold for root as well."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (".", "error: cannot write to {directory}: make it writable, or name another by --directory"),
        ("data/runs/small", "PermissionError: [Errno 13] Permission denied: 'data/runs/small/round_002'"),
    ],
)
def test_read_only(halfway, folder, message):
    command = halfway.command()
    (halfway.directory / folder).chmod(0o555)
    done = subprocess.run(
        command, cwd=halfway.directory, capture_output=True, text=True, check=False, preexec_fn=without_privilege
    )
    (halfway.directory / folder).chmod(0o755)
    assert done.returncode == 1
    assert message.format(directory=halfway.directory) in done.stdout + done.stderr, done.stderr
