"""Forked ranks: the first that fails ends the others and prints one line; all end with Snakemake."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.runtime import fork_server
from pipeline.runtime.fork_server import PREFIX, SOCKET, Preloaded
from tests.conftest import ROOT
from tests.forks import SECONDS
from tests.processes import still_running

WAITS = """
import os, pathlib, time
import torch.distributed
torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
rank = int(os.environ["RANK"])
pathlib.Path(f"{rank}.pid").write_text(str(os.getpid()))
if rank == 1:
    FAULT
    time.sleep(1000)
torch.distributed.barrier()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose stages are the modules of its directory; its standard input stands for Snakemake."""
    directory = tmp_path_factory.mktemp("preload")
    umask = os.umask(0)
    preloaded = Preloaded(sys.executable, enabled=True)
    os.umask(umask)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        preloaded.start()
    preloaded.server.directory, preloaded.server.socket = directory, Path(preloaded.socket)
    yield preloaded.server
    preloaded.stop()


def test_no_other_user_can_connect(server):
    """Connecting would be running code as this user; an open umask does not open the socket's directory."""
    directory = server.socket.parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert directory.stat().st_uid == os.getuid()
    assert [path.name for path in directory.iterdir()] == [server.socket.name]


def test_left_over_sockets_are_removed(monkeypatch, tmp_path):
    """Those of Snakemakes that have ended; not those of running ones, and nothing that is no socket of ours."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done, zombie = subprocess.Popen(["true"]), subprocess.Popen(["true"])
    done.wait()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    for name in (f"{done.pid}-a", f"{zombie.pid}-a", f"{done.pid}-b", f"{os.getpid()}-c", "mine"):
        (tmp_path / f"{PREFIX}{name}").mkdir()
    sockets = [f"{name}/{SOCKET}" for name in (f"{done.pid}-a", f"{zombie.pid}-a", f"{os.getpid()}-c")]
    for name in (*sockets, f"{done.pid}-b/notes"):
        (tmp_path / f"{PREFIX}{name}").touch()
    preloaded = Preloaded("true", enabled=True)
    preloaded.start()
    preloaded.stop()
    zombie.wait()
    left = sorted(path.name.removeprefix(PREFIX) for path in tmp_path.iterdir())
    assert left == sorted([f"{done.pid}-b", f"{os.getpid()}-c", "mine"])


def test_nothing_is_left_without_a_server(monkeypatch, tmp_path):
    """As after a dry run, which starts none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert Preloaded("true", enabled=False).socket == ""
    preloaded = Preloaded("true", enabled=True)
    assert len(list(tmp_path.iterdir())) == 1
    preloaded.stop()
    assert list(tmp_path.iterdir()) == []


def start(server, fault: str) -> tuple[subprocess.Popen, list[int]]:
    """Two ranks, both past their first barrier, and the ids of their processes."""
    directory = server.directory
    for path in directory.glob("*.pid"):
        path.unlink()
    (directory / "stage.py").write_text(WAITS.replace("FAULT", fault))
    command = [sys.executable, "-m", "pipeline.runtime.fork_server", "run", str(server.socket), "2", "stage"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + SECONDS
    while not all((directory / f"{rank}.pid").exists() for rank in (0, 1)) and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return running, [int((directory / f"{rank}.pid").read_text()) for rank in (0, 1)]


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
    assert running.communicate(timeout=SECONDS)[1].strip() == message
    assert running.returncode != 0
    assert still_running(ranks) == []


def test_a_stage_gets_the_whole_of_a_large_environment(server):
    """Environment modules on a cluster make it large. A caller that hung up before it sent anything does no harm."""
    directory = server.directory
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(server.socket))
    (directory / "large.py").write_text("import os\nprint(sum(len(os.environ[f'LARGE_{n}']) for n in range(9)))")
    command = [sys.executable, "-m", "pipeline.runtime.fork_server", "run", str(server.socket), "1", "large"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **{f"LARGE_{n}": "x" * 100_000 for n in range(9)}}
    said = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("900000\n", "")
    assert server.socket.exists()


@pytest.mark.parametrize("place", ["x" * 120, "with spaces"])
def test_long_names_and_spaces_of_temporary_directories(monkeypatch, request, place):
    """The path of a socket has some 100 bytes at most; pytest's own directories may have as many."""
    tmp_path = Path(tempfile.mkdtemp(dir="/tmp"))
    request.addfinalizer(lambda: shutil.rmtree(tmp_path))
    (tmp_path / place).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / place))
    preloaded = Preloaded("true", enabled=True)
    assert preloaded.socket.startswith("/tmp/dam-fork-" if place[0] == "x" else str(tmp_path / place))
    preloaded.start()
    preloaded.stop()
    assert not Path(preloaded.socket).parent.exists()
    monkeypatch.setattr(fork_server, "SHORT", str(tmp_path / ("x" * 121)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 120)))
    assert Preloaded("true", enabled=True).socket == ""


def test_jobs_go_on_without_a_server_that_was_killed(monkeypatch, tmp_path, capfd):
    """The one that waits for it, and one that comes later; each alone, also within an allocation of several GPUs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text("print('done')")
    preloaded = Preloaded(sys.executable, enabled=True)
    preloaded.start()
    preloaded.server.send_signal(signal.SIGSTOP)
    command = [sys.executable, "-m", "pipeline.runtime.fork_server", "run", preloaded.socket, "0", "job"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SLURM_GPUS_ON_NODE": "8"}
    waits = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    connected = f"{preloaded.socket}\n"
    deadline = time.monotonic() + SECONDS
    while Path("/proc/net/unix").read_text().count(connected) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    preloaded.server.kill()
    preloaded.server.wait()
    later = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for out, err in (waits.communicate(timeout=SECONDS), (later.stdout, later.stderr)):
        assert out == "done\n"
        assert err == "note: no server of preloaded modules answers: this job imports them itself\n"
    preloaded.stop()
    said = "note: the server of preloaded modules had ended (status -9): jobs went on without it\n"
    assert capfd.readouterr().err.endswith(said)


@pytest.mark.parametrize("victim", ["caller", "Snakemake"])
def test_ranks_die_with(server, victim):
    running, ranks = start(server, "time.sleep(1000)")
    assert len(ranks) == 2
    if victim == "caller":
        running.send_signal(signal.SIGKILL)
    else:
        server.stdin.close()
    assert still_running(ranks) == []
    assert running.wait(SECONDS) != 0
    if victim == "caller":
        assert server.socket.exists()
    else:
        assert server.wait(SECONDS) == 0
        assert not server.socket.parent.exists()
