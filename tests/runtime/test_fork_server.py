"""Forked ranks: the first that fails or dies ends the others and says why in one line; all die with Snakemake."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.fork_server import Preloaded
from tests.conftest import ROOT

WAITS = """
import os, pathlib, time
import torch.distributed
torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
rank = int(os.environ["RANK"])
pathlib.Path(f"{rank}.pid").write_text(str(os.getpid()))
if rank == 1:
    FAULT
    time.sleep(100)
torch.distributed.barrier()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose stages are the modules of its directory; its standard input stands for Snakemake."""
    directory = tmp_path_factory.mktemp("preload")
    preloaded = Preloaded(sys.executable, enabled=True)
    preloaded.socket = str(directory / "socket")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        preloaded.start()
    preloaded.server.directory = directory
    yield preloaded.server
    preloaded.stop()


def start(server, fault: str) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """Two ranks, both past their first barrier, and the processes that they are."""
    directory = server.directory
    for path in directory.glob("*.pid"):
        path.unlink()
    (directory / "stage.py").write_text(WAITS.replace("FAULT", fault))
    command = [sys.executable, "-m", "pipeline.runtime.fork_server", "run", str(directory / "socket"), "2", "stage"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not all((directory / f"{rank}.pid").exists() for rank in (0, 1)) and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return running, [process for process in psutil.Process(server.pid).children() if process.is_running()]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("os.kill(os.getpid(), 9)", "error: the stage was killed"),
        ("raise SystemExit('error: no such row')", "error: no such row"),
    ],
)
def test_a_rank_that_fails_ends_all(server, fault, message):
    """The other rank, which waits for it in the backend, neither survives nor prints a traceback."""
    running, ranks = start(server, fault)
    assert running.communicate(timeout=60)[1].strip() == message
    assert running.returncode != 0
    assert psutil.wait_procs(ranks, timeout=10)[1] == []


def test_a_stage_gets_the_whole_of_a_large_environment(server):
    """However much a cluster's modules have put there, and whoever has hung up before."""
    directory = server.directory
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(directory / "socket"))
    (directory / "large.py").write_text("import os\nprint(sum(len(os.environ[f'LARGE_{n}']) for n in range(9)))")
    command = [sys.executable, "-m", "pipeline.runtime.fork_server", "run", str(directory / "socket"), "1", "large"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **{f"LARGE_{n}": "x" * 100_000 for n in range(9)}}
    said = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("900000\n", "")
    assert (directory / "socket").exists()


@pytest.mark.parametrize("victim", ["caller", "Snakemake"])
def test_ranks_die_with(server, victim):
    running, ranks = start(server, "time.sleep(100)")
    assert len(ranks) == 2
    if victim == "caller":
        running.send_signal(signal.SIGKILL)
    else:
        server.stdin.close()
    assert psutil.wait_procs(ranks, timeout=10)[1] == []
    assert running.wait(10) != 0
    assert Path(server.directory / "socket").exists() == (victim == "caller") or server.wait(10) == 0
