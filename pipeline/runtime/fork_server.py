"""Forks stages from one process that has already imported PyTorch and transformers.

The imports take several seconds, longer than a small model computes in a round. The Snakefile starts `serve` once. In
each job `run` sends it a stage's command line, standard streams and environment, and passes on the exit status; without
a server `run` starts an ordinary process. A stage ends when its `run` ends, `run` when its shell ends, and all of them
when Snakemake ends.
"""

import array
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.runtime.devices import hold
from pipeline.runtime.launch import die_with_shell, free_port, limit_to_gpus, start

PREFIX, SOCKET, LONGEST = "dam-fork-", "s", 100
"""Names: the start of the directory's, and the socket's in it. The longest path, in bytes, that every system allows."""
SHORT = "/tmp"
"""Where the socket is if the directory for temporary files has a longer name."""
TAKEN = b"+"
"""What a fork answers as soon as it has a job; its exit status follows."""

STREAMS, MOST_DEVICES = 3, 128
"""How many files a stage receives: standard input, output and error; locks of devices."""


class Preloaded:
    """The server as the Snakefile sees it; `socket` is the path of its socket, "" when preloading is off."""

    def __init__(self, python: str, enabled: bool):
        self.python = python
        self.server: subprocess.Popen[bytes] | None = None
        # Whoever can connect can run code as this user: the directory has mode 0700, whatever the umask.
        self.directory = _private_directory() if enabled else None
        self.socket = f"{self.directory.name}/{SOCKET}" if self.directory else ""

    def start(self) -> None:
        """Start the server. It ends with this process, because its standard input is then closed."""
        if self.directory:
            _remove_left_over(Path(self.directory.name).parent)
            with socket.socket(socket.AF_UNIX) as listener:  # listens already, so that stages wait for the imports
                listener.bind(self.socket)
                listener.listen(64)
                command = [self.python, "-m", "pipeline.runtime.fork_server", "serve", str(listener.fileno())]
                self.server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])

    def stop(self) -> None:
        """Stop the server and remove its directory; say so if it has ended before."""
        if self.server and self.server.stdin:
            if (status := self.server.poll()) is not None:
                said = f"the server of preloaded modules had ended (status {status}): jobs went on without it"
                print(f"note: {said}", file=sys.stderr)
            self.server.stdin.close()
            self.server.wait()
        if self.directory:
            self.directory.cleanup()


def _private_directory() -> tempfile.TemporaryDirectory[str] | None:
    """A directory of this user alone whose name is short enough for a socket; None if there is no place for it."""
    prefix = f"{PREFIX}{os.getpid()}-"
    for place in (tempfile.gettempdir(), SHORT):
        if len(os.fsencode(f"{place}/{prefix}01234567/{SOCKET}")) <= LONGEST and os.access(place, os.W_OK):
            return tempfile.TemporaryDirectory(prefix=prefix, dir=place)
    return None


def _remove_left_over(place: Path) -> None:
    """Remove the sockets that are left if a Snakemake and its server are killed at once."""
    for directory in place.glob(f"{PREFIX}*"):
        # Another user's directory or process, or a directory that some other program made.
        with suppress(OSError, ValueError, psutil.AccessDenied):
            if _ended(int(directory.name.removeprefix(PREFIX).split("-")[0])):
                (directory / SOCKET).unlink(missing_ok=True)
                directory.rmdir()


def _ended(pid: int) -> bool:
    """Whether a process has ended, even if its parent has not noticed: in a container that may take long."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def serve(listener: socket.socket) -> None:
    """Fork a process for each connection until standard input closes, then remove the socket and its directory."""
    # Forking is safe only before threads start: import what every stage with a model needs, but compute nothing.
    gc.disable()
    for module in ("pyarrow.parquet", "pyarrow.dataset", "pipeline.models.transformer", "pipeline.training.loop"):
        importlib.import_module(module)
    gc.enable()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends Snakemake, and that the server
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection = listener.accept()[0]
        if os.fork() == 0:
            listener.close()
            _become_stage(connection)
        connection.close()
    shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)


def _become_stage(connection: socket.socket) -> None:
    """In the forked process: take over the caller's streams, directory and environment, run the module, and exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    snakemake = os.dup(0)
    try:
        _, files, _, _ = socket.recv_fds(connection, 1, STREAMS + MOST_DEVICES)
        request = json.loads(connection.makefile("rb").readline())
        connection.sendall(TAKEN)
    except (OSError, ValueError):  # the caller was killed before it had sent its request
        os._exit(1)
    for target, stream in enumerate(files[:STREAMS]):
        os.dup2(stream, target)
    for lock in files[STREAMS:]:  # they stay open for as long as this process lives, and in no process that it starts
        os.set_inheritable(lock, False)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["command"]
    threading.Thread(target=_exit_when_closed, args=(connection, snakemake), daemon=True).start()
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


def _exit_when_closed(caller: socket.socket, snakemake: int) -> None:
    """Exit as soon as either descriptor is readable: nothing is ever sent on them, so their other end is closed."""
    select.select([caller.fileno(), snakemake], [], [])
    os._exit(1)


def _wait_for_turn() -> None:
    """Delay this rank's error message, each rank by a different time, so that only the first to fail prints one.

    When a rank ends, `run` ends the others. Those that fail because the first has died are gone before their turn.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        time.sleep(0.5 * (1 + int(os.environ["RANK"])))


def run(path: str, ranks: int, command: list[str]) -> None:
    """Run `python -m COMMAND` as `ranks` forks of the server at `path`, or as processes of their own without one; 0 is
    one outside `torch.distributed`."""
    die_with_shell()
    locks = hold()
    ranks = limit_to_gpus(ranks)
    try:
        waiting = _hand_over(path, ranks or 1, command, locks)
    except OSError:
        print("note: no server of preloaded modules answers: this job imports them itself", file=sys.stderr)
        start(ranks, command)
    while waiting:
        for connection in select.select(waiting, [], [])[0]:
            status = connection.recv(1)
            if status != b"\0":
                for rank in waiting:  # this ends the other ranks, before it is their turn to say anything
                    rank.close()
                sys.exit(status[0] if status else "error: the stage was killed")
            waiting.remove(connection)


def _hand_over(path: str, ranks: int, command: list[str], locks: Iterable[int]) -> list[socket.socket]:
    """The connections to the forks that have taken the job. OSError if the server has ended before it made them all."""
    connections = [socket.socket(socket.AF_UNIX) for _ in range(ranks)]
    for connection in connections:
        connection.connect(path)
    group = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for rank, connection in enumerate(connections):
        distributed = {"RANK": rank, "LOCAL_RANK": rank, **group} if ranks > 1 else {}  # what torch.distributed reads
        environment = {**os.environ, **{name: str(value) for name, value in distributed.items()}}
        request = {"command": command, "directory": str(Path.cwd()), "environment": environment}
        socket.send_fds(connection, [b" "], [*range(STREAMS), *locks])
        connection.sendall(json.dumps(request).encode() + b"\n")
    if any(connection.recv(1) != TAKEN for connection in connections):
        raise OSError("the server has ended")
    return connections


if __name__ == "__main__":
    verb, where, *rest = sys.argv[1:]
    serve(socket.socket(fileno=int(where))) if verb == "serve" else run(where, int(rest[0]), rest[1:])
