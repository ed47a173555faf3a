"""Stages forked from one process that has imported PyTorch and transformers already.

Importing them takes several seconds, more than a small model's round computes for. The Snakefile starts `serve`
once; `run` hands it a stage's command line, terminal and environment, and passes on the exit status. Without a
server `run` starts an ordinary process instead. A stage dies with its `run`, `run` with its shell, all with Snakemake.
"""

import array
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.runtime.launch import die_with_shell, free_port, limit_to_gpus, start

PREFIX = "dam-preload-"


class Preloaded:
    """The server's life, seen from the Snakefile; `socket` is "" when preloading is off."""

    def __init__(self, python: str, enabled: bool):
        self.python = python
        self.socket = str(Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}") if enabled else ""
        self.server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server; it ends with this process, because then its standard input closes."""
        if self.socket:
            _sweep()
            Path(self.socket).unlink(missing_ok=True)  # of a killed Snakemake that had the same process id
            with socket.socket(socket.AF_UNIX) as listener:  # from now on, so that stages wait for the import
                listener.bind(self.socket)
                listener.listen(64)
                command = [self.python, "-m", "pipeline.runtime.fork_server", "serve", str(listener.fileno())]
                self.server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])

    def stop(self) -> None:
        if self.server and self.server.stdin:
            self.server.stdin.close()
            self.server.wait()
            Path(self.socket).unlink(missing_ok=True)  # of a server that was killed


def _sweep() -> None:
    """Remove the sockets of killed servers, which are those of no running process."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, ValueError):  # another user's, or no socket of ours
            if not psutil.pid_exists(int(path.name.removeprefix(PREFIX))):
                path.unlink()


def serve(listener: socket.socket) -> None:
    """Accept stages until standard input closes, and then remove the socket."""
    try:
        import_everything()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
            connection = listener.accept()[0]
            if os.fork() == 0:
                listener.close()
                _become_stage(connection)
            connection.close()
            del ready
    finally:
        Path(listener.getsockname()).unlink(missing_ok=True)


def import_everything() -> None:
    """What every stage with a model needs. Nothing is computed here: forking is safe as long as no thread runs."""
    gc.disable()
    for module in ("pyarrow.parquet", "pipeline.models.llada", "pipeline.training.loop"):
        importlib.import_module(module)

    gc.enable()
    gc.freeze()


def _become_stage(connection: socket.socket) -> None:
    """In the forked process: take over the caller's terminal, directory and environment, run the module, exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    snakemake = os.dup(0)
    try:
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        request = json.loads(connection.makefile("rb").readline())
    except (OSError, ValueError):  # the caller was killed before it had said what to run
        os._exit(1)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["command"]
    threading.Thread(target=_die_with, args=(connection, snakemake), daemon=True).start()
    status = 0
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        if isinstance(stop.code, str):
            _wait_for_turn()
            print(stop.code, file=sys.stderr)
    except BaseException:
        _wait_for_turn()
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(array.array("B", [status & 255]).tobytes())
    os._exit(status)


def _die_with(caller: socket.socket, snakemake: int) -> None:
    """End at once when either end of file says that the other side is gone; nothing is ever sent on them."""
    select.select([caller.fileno(), snakemake], [], [])
    os._exit(1)


def _wait_for_turn() -> None:
    """Let one rank alone say what failed: of several, the first one's end ends the others (see `run`).

    A rank that fails because another has died is told so by the caller before its turn comes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        time.sleep(0.5 * (1 + int(os.environ["RANK"])))


def run(path: str, ranks: int, command: list[str]) -> None:
    """Run `python -m COMMAND` as `ranks` forks of the server at `path`, or as processes of their own without one."""
    die_with_shell()
    ranks = limit_to_gpus(ranks)
    try:
        connections = [_connect(path) for _ in range(ranks)]
    except OSError:
        start(ranks, command)
    port = free_port()
    for rank, connection in enumerate(connections):
        environment = {**os.environ, **(_rank_variables(rank, ranks, port) if ranks > 1 else {})}
        request = {"command": command, "directory": str(Path.cwd()), "environment": environment}
        socket.send_fds(connection, [b" "], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
    # The first rank to end decides: when one fails, leaving here closes the connections, and the others with them.
    waiting = list(connections)
    while waiting:
        for connection in select.select(waiting, [], [])[0]:
            status = connection.recv(1)
            if status != b"\0":
                sys.exit(status[0] if status else "error: the stage was killed")
            waiting.remove(connection)


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _rank_variables(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torch.distributed reads from the environment."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {name: str(value) for name, value in here.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


if __name__ == "__main__":
    verb, where, *rest = sys.argv[1:]
    serve(socket.socket(fileno=int(where))) if verb == "serve" else run(where, int(rest[0]), rest[1:])
