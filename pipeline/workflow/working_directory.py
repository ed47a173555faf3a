"""A check of the working directory before Snakemake looks at it."""

import os
from pathlib import Path

from pipeline.errors import PipelineError

WRITTEN = (".", ".snakemake", "data", "data/runs")


def check_writable() -> None:
    """PipelineError if a directory that Snakemake writes to is read-only: Snakemake itself would print a traceback."""
    for path in map(Path, WRITTEN):
        if path.exists() and not os.access(path, os.W_OK):
            raise PipelineError(f"cannot write to {path.resolve()}: make it writable, or name another by --directory")
