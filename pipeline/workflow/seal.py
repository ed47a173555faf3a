"""`python -m pipeline.workflow.seal RUN`: keeps a run's files fresh for Snakemake when DVC moves or rewrites them.

Snakemake compares times of files, DVC their bytes, and files that DVC brings have new times. So `seal.json` in the
run's directory holds every file's SHA-256 and time. The Snakefile gives a file whose SHA-256 is the sealed one its
sealed time, unless the timings say that a stage has run since. A seal may come from a stranger's DVC remote: it can
change nothing but times. How the files were made is in the timings (`pipeline/workflow/records.py`).
"""

import sys
from os import utime
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from pipeline.errors import PipelineError
from pipeline.storage.atomic_files import sha256_of, write_json
from pipeline.workflow.retention import may_be_removed

RUNS, SEAL = Path("data/runs"), "seal.json"
TIMESTAMP = ".snakemake_timestamp"


class File(BaseModel):
    time: int = Field(ge=0, lt=2**63)  # of the last change, in nanoseconds
    sha256: str


class Seal(BaseModel):
    files: dict[str, File] = {}  # by their path in the run's directory


def seal(run: str) -> None:
    """Write the seal of a finished run. Files of unchanged time are not read again.

    Raises:
        PipelineError: if there is no such run, or a file of its last seal is gone that Snakemake would not miss.
    """
    if not (RUNS / run).is_dir():
        raise PipelineError(f"{RUNS / run} does not exist")
    known, found, files = _read(run).files, _files(run), {}
    if lost := sorted(name for name in known.keys() - found.keys() if not may_be_removed(name)):
        file = RUNS / run / lost[0]
        raise PipelineError(f"{file} is gone: `dvc checkout` brings it back, `snakemake --cores all {file}` makes it")
    for name, path in sorted(found.items()):
        time, old = path.stat().st_mtime_ns, known.get(name)
        files[name] = old if old and old.time == time else File(time=time, sha256=sha256_of(path))
    write_json(RUNS / run / SEAL, Seal(files=files).model_dump())


def restore(run: str) -> None:
    """Give files whose SHA-256 is the sealed one their sealed times; do nothing if a stage has run here since.

    A file that differs from its seal keeps its time, as does the time that Snakemake keeps of the directory that it is
    in, so that what depends on it is stale.

    Raises:
        PipelineError: if this is no seal, or a file cannot be read or is another user's.
    """
    try:
        _restore(run)
    except OSError as error:
        raise PipelineError(f"cannot read {error.filename}, or set its time: {error.strerror}") from error


def _restore(run: str) -> None:
    sealed, found = _read(run).files, _files(run)
    moved = [name for name in sealed.keys() & found.keys() if found[name].stat().st_mtime_ns != sealed[name].time]
    same = {name for name in moved if sha256_of(found[name]) == sealed[name].sha256}
    unlike = {*moved} - same | (sealed.keys() ^ found.keys())
    if any(name.startswith("timings/") for name in unlike):
        return
    changed = {str(Path(name).parent / TIMESTAMP) for name in unlike}
    for name in same - changed:
        utime(found[name], ns=(sealed[name].time,) * 2)


def _read(run: str) -> Seal:
    file = RUNS / run / SEAL
    try:
        return Seal.model_validate_json(file.read_bytes()) if file.exists() else Seal()
    except ValidationError as error:
        raise PipelineError(f"{file} is not a seal ({error.errors()[0]['msg']}): delete {RUNS / run}") from error


def _files(run: str) -> dict[str, Path]:
    """The files in the run's directory by name. A seal's names are only compared with these, never opened."""
    paths = (path for path in (RUNS / run).rglob("*") if path.is_file() and path != RUNS / run / SEAL)
    return {str(path.relative_to(RUNS / run)): path for path in paths}


if __name__ == "__main__":
    try:
        seal(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
    except PipelineError as error:
        sys.exit(f"error: {error}")
