"""Calls a function on data from strangers where it can be stopped: in a child process with limits. Torch-free."""

import json
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
STATM = Path("/proc/self/statm")


class BoundsError(Exception):
    """The function has raised something, or has taken too much time or memory; the message says which."""


def bounded(function: Callable[[], object], seconds: int, memory: int) -> Any:
    """Call a function in a child process, with at most `seconds` of time and `memory` more bytes; returns its result.

    The result must be JSON in UTF-8. Raises BoundsError if the function fails or exceeds a limit.

    The child is a fork, so it starts at once and knows what its parent knows; nothing that it changes is kept. The
    function must not use PyTorch, whose threads and devices a fork does not have. Memory is bounded on Linux only.
    """
    ours, theirs = Pipe(duplex=False)
    if not (child := os.fork()):
        _answer(function, theirs, seconds, memory)
    theirs.close()
    try:
        found = json.loads(ours.recv_bytes()) if ours.poll(seconds + 1) else {"error": f"more than {seconds} s"}
    except (EOFError, OSError):
        found = None
    finally:
        ours.close()
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if found is None:
        late = status == -signal.SIGXCPU
        found = {"error": f"more than {seconds} s" if late else f"its process ended (status {status})"}
    if "error" in found:
        raise BoundsError(found["error"])
    return found["value"]


def _answer(function: Callable[[], object], connection: Connection, seconds: int, memory: int) -> None:
    """In the child: send what the function returns or raises, and end without any of the parent's exit handlers."""
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if STATM.exists():
            limit = int(STATM.read_text().split()[0]) * PAGE + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        connection.send_bytes(json.dumps({"value": function()}, ensure_ascii=False).encode())
    except MemoryError:
        connection.send_bytes(json.dumps({"error": f"more than {memory // 2**20} MiB"}).encode())
    except BaseException as error:
        connection.send_bytes(json.dumps({"error": f"{type(error).__name__}: {str(error)[:500]}"}).encode())
    finally:
        os._exit(0)
