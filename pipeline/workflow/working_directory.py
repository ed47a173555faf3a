"""What the working directory must be before Snakemake looks at it: writable, and without files from the future."""

import os
import time
from pathlib import Path

from pipeline.errors import PipelineError

WRITTEN = (".", ".snakemake", "data", "data/runs")


def check_writable() -> None:
    """PipelineError if Snakemake could not write where it must; it says so with a traceback of its own."""
    for path in map(Path, WRITTEN):
        if path.exists() and not os.access(path, os.W_OK):
            raise PipelineError(f"cannot write to {path.resolve()}: make it writable, or name another by --directory")


def settle(data: Path = Path("data")) -> None:
    """Date files from the future to now, in their order.

    A clock that was set back leaves them behind, and Snakemake refuses a job's output that is older than its input.
    Only the order decides what is stale, and it stays as it is.
    """
    now = time.time_ns()
    dated = [(path.stat().st_mtime_ns, path) for path in data.rglob("*") if path.is_file()]
    late = sorted(pair for pair in dated if pair[0] > now)
    for rank, (_, path) in enumerate(late):
        moment = now - len(late) + rank
        os.utime(path, ns=(moment, moment))
