"""Waiting for the end of processes that a test has not started itself."""

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

SECONDS = 600.0
"""The longest wait for what takes milliseconds where nothing else runs."""


def still_running(processes: Iterable[psutil.Process | int]) -> list[psutil.Process | int]:
    """Those of the processes, or process ids, that have not ended after `SECONDS`; [] as soon as all have.

    One that nobody has waited for has ended, too: it stays a zombie where the first process of a container is a program
    that does not know of orphans.
    """
    left, deadline = list(processes), time.monotonic() + SECONDS
    while (left := [process for process in left if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _runs(process: psutil.Process | int) -> bool:
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(process) if isinstance(process, int) else process
        return found.is_running() and found.status() != psutil.STATUS_ZOMBIE
    return False
