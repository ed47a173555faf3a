"""A working directory that another Snakemake is using, or that is read-only."""

import ctypes
import signal
import subprocess
import time

import pytest

from tests.forks import SECONDS
from tests.small_workflow import Workflow, undone

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


@pytest.fixture
def halfway(copied: Workflow) -> Workflow:
    """The finished workflow without its last round and its report."""
    return undone(copied, first=2)


def test_a_second_snakemake_is_refused(finished, halfway):
    """While one runs (here stopped by a signal), another fails at its lock, a dry run works; neither disturbs it."""
    first = halfway.start()
    deadline = time.monotonic() + SECONDS
    while not list((halfway.run_directory / "round_002").glob("rollouts/*.parquet")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)
    assert "Directory cannot be locked" in halfway(ok=False)
    halfway("--dry-run")
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=SECONDS) == 0
    assert halfway.metrics() == finished.metrics()


def without_privilege() -> None:
    """Make file permissions hold for root too."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (".", "error: cannot write to {directory}: make it writable, or name another by --directory"),
        ("data/runs/small", "PermissionError: [Errno 13] Permission denied: 'data/runs/small/round_002'"),
    ],
)
def test_read_only(halfway, folder, message):
    halfway.params["hardware"]["preload"] = False  # no job starts
    command = halfway.command()
    (halfway.directory / folder).chmod(0o555)
    done = subprocess.run(
        command, cwd=halfway.directory, capture_output=True, text=True, check=False, preexec_fn=without_privilege
    )
    (halfway.directory / folder).chmod(0o755)
    assert done.returncode == 1
    assert message.format(directory=halfway.directory) in done.stdout + done.stderr, done.stderr
