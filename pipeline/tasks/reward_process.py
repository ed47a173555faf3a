"""A user's reward in a process of its own, which can be killed: `python -m pipeline.tasks.reward_process`.

The process is a fresh interpreter, not a fork: a reward may use a GPU, threads or signals, and keep what it has loaded
from one answer to the next. It imports the task by its name, and scores one batch of answers after the other. It ends
with the stage, however the stage ends, and so does every process that the reward has started in its process group.
"""

import faulthandler
import json
import math
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import pipeline
from pipeline.errors import PipelineError
from pipeline.plugins import load_task, resolve_task
from pipeline.tasks.base import Item, TaskSettings, is_reserved

Score = Callable[[Item, str], Mapping[str, float]]
Outcome = dict[str, float] | str
"""The metrics of an answer, or what is wrong with them."""
HERE = Path(pipeline.__file__).parent
FRAMES = 20
LONGEST = 1e6
"""Seconds that one can wait for at most."""
LARGEST = 1e100
"""The largest size of a metric: squares of larger ones would overflow in standard errors."""
DUMP_SECONDS = 0.2
"""How long a hanging process may take to write where it hangs."""


class RewardProcess:
    """The process, as the stage sees it; started for the first batch, and again after it had to be killed."""

    def __init__(self, section: TaskSettings):
        self.section = section
        self.running: subprocess.Popen[bytes] | None = None

    def outcomes(self, pairs: Sequence[tuple[Item, str]], timeout: float) -> Iterator[Outcome]:
        """The outcome of each (item, answer), up to the first that takes longer than `timeout` seconds."""
        self.start()
        try:
            _send(self.connection, [[asdict(item), answer] for item, answer in pairs])
            for _ in pairs:
                if not self.connection.poll(min(timeout, LONGEST)):
                    self._kill()
                    yield f"the reward took longer than {timeout:g} s (reward_timeout)"
                    return
                yield _receive(self.connection)
        except (EOFError, OSError, ValueError):
            yield f"the reward ended its process (status {self._kill()})"

    def close(self) -> None:
        """End the process."""
        if self.running:
            self.connection.close()
            self._kill()

    def start(self) -> None:
        """Start the process unless it runs, and wait until it has imported the task, however long that takes."""
        if self.running:
            return
        self.connection, other = Pipe()
        stage_ends, self.alive = os.pipe()  # for reading; for writing, which nothing does: closed when the stage ends
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        command = [sys.executable, "-m", "pipeline.tasks.reward_process", str(other.fileno()), str(stage_ends)]
        self.running = subprocess.Popen(
            command,
            pass_fds=[other.fileno(), stage_ends],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        other.close()
        os.close(stage_ends)
        try:
            _send(self.connection, [self.section.name, self.section.model_dump(mode="json")])
            _receive(self.connection)
        except (EOFError, OSError):
            status = self._kill()
            raise PipelineError(
                f"task '{self.section.name}': its process ended (status {status}); see the log"
            ) from None

    def _kill(self) -> int:
        """Kill the process, after it has written where it hangs if it is still connected. Returns its exit status."""
        assert self.running
        if not self.connection.closed:
            self.running.send_signal(signal.SIGUSR1)
        with suppress(subprocess.TimeoutExpired):
            self.running.wait(DUMP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.running.pid, signal.SIGKILL)  # with the processes that the reward has started
        status = self.running.wait()
        self.connection.close()
        os.close(self.alive)
        self.running = None
        return status


def _send(connection: Connection, value: object) -> None:
    """Send a value as JSON. Never as a pickle: unpickling what a reward wrote could run code."""
    connection.send_bytes(json.dumps(value).encode())


def _receive(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes())


def outcome(score: Score, item: Item, answer: str) -> Outcome:
    """The metrics of an answer as floats, or what is wrong; the traceback of an exception goes to the log."""
    try:
        metrics = score(item, answer)
        return _wrong(metrics) or {name: float(value) for name, value in metrics.items()}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's code may raise anything
        traceback.print_exception(error, limit=-FRAMES)
        return f"the reward raised {type(error).__name__}: {error}{_line(error)}"


def _line(error: BaseException) -> str:
    """The first line outside this package that an exception went through: one of the user's own."""
    frames = ((Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__))
    file, line = next(((file, line) for file, line in frames if HERE not in file.parents), (None, 0))
    return f" ({file.name}, line {line})" if file else ""


def _wrong(metrics: object) -> str:
    """What is wrong with the metrics of an answer, "" if nothing is."""
    if not isinstance(metrics, Mapping):
        return f"the score is {_short(metrics)}, not a mapping,"
    if "reward" not in metrics:
        return f"the score has no 'reward' but {sorted(map(str, metrics))}"
    for name, value in metrics.items():
        if not isinstance(name, str):
            return f"the score has a metric called {_short(name)}, which is not a text,"
        if is_reserved(name):
            return f"the score has a metric called {name!r}, a name of the report itself,"
        if not _finite(value) or abs(value) > LARGEST:
            what = "the reward" if name == "reward" else f"the metric {name!r}"
            wanted = f"number between ±{LARGEST:g}" if _finite(value) else "finite number"
            return f"{what} is {_short(value)}, not a {wanted},"
    return ""


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except Exception:  # whatever the type of the value raises
        return False


def _short(value: object) -> str:
    return " ".join(repr(value).split())[:80]


def end_with(stage_ends: int, connection: Connection) -> None:
    """Fork a process that waits for the end of the stage and then kills this process's group, itself included.

    It is a grandchild, so that a reward that waits for its children does not wait for it.
    """
    if child := os.fork():
        os.waitpid(child, 0)
        os.close(stage_ends)
        return
    if os.fork() == 0:
        connection.close()
        os.read(stage_ends, 1)
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """Answer each batch that comes from the stage with one outcome after the other; end with the stage."""
    connection = Connection(int(sys.argv[1]))
    end_with(int(sys.argv[2]), connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the stage
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    name, section = _receive(connection)
    score = resolve_task(load_task(name).settings.model_validate(section)).score
    _send(connection, True)
    with suppress(EOFError):
        while True:
            for item, answer in _receive(connection):
                _send(connection, found := outcome(score, Item(**item), answer))
                if isinstance(found, str):  # the stage stops
                    break


if __name__ == "__main__":
    main()
