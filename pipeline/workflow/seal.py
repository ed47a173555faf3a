"""`python -m pipeline.workflow.seal RUN`: lets Snakemake trust a run's directory that DVC has moved.

DVC compares bytes; Snakemake compares times and its records in `.snakemake`, and trusts a file without a record. So
`seal.json` in the run's directory holds every file's SHA-256 and time, and the records. If the bytes are as sealed,
the Snakefile restores times and records. A seal may come from a stranger's DVC remote: it can change nothing else.
"""

import sys
from base64 import b64decode
from contextlib import suppress
from os import utime
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from pipeline.errors import PipelineError
from pipeline.storage.atomic_files import sha256_of, write_json, write_text

RUNS, SEAL, STATE = Path("data/runs"), "seal.json", Path(".snakemake")


class File(BaseModel):
    time: int = Field(ge=0, lt=2**63)  # of the last change, in nanoseconds
    sha256: str


class Seal(BaseModel):
    files: dict[str, File] = {}  # by their path in the run's directory
    records: dict[str, str] = {}  # by their path in `.snakemake`


def seal(run: str) -> None:
    """Write the seal of a finished run; PipelineError if there is none. Files of unchanged time are not read again."""
    if not (RUNS / run).is_dir():
        raise PipelineError(f"{RUNS / run} does not exist")
    known, files = _read(run).files, {}
    for name, path in sorted(_files(run).items()):
        time, old = path.stat().st_mtime_ns, known.get(name)
        files[name] = old if old and old.time == time else File(time=time, sha256=sha256_of(path))
    records = {str(path.relative_to(STATE)): path.read_bytes().decode() for path in sorted(_records(run, "metadata"))}
    write_json(RUNS / run / SEAL, Seal(files=files, records=records).model_dump())
    write_text(_marker(run), sha256_of(RUNS / run / SEAL))


def restore(run: str) -> None:
    """Restore times and records if all files are as sealed; change nothing if some were computed here since.

    PipelineError if the seal was made elsewhere and does not describe the files, or is no seal of this run.
    """
    sealed, found, file, marker = _read(run), _files(run), RUNS / run / SEAL, _marker(run)
    moved = [name for name, was in sealed.files.items() if name in found and found[name].stat().st_mtime_ns != was.time]
    current = not file.exists() or (marker.exists() and marker.read_text(encoding="utf-8") == sha256_of(file))
    differing = (name for name in moved if sha256_of(found[name]) != sealed.files[name].sha256)
    unlike = min(found.keys() ^ sealed.files, default=None) or next(differing, None)
    if current and (unlike or not moved):  # nothing to restore, or something computed here since
        return
    if unlike:
        mend = "restore both by `dvc checkout --force`, or delete them"
        raise PipelineError(f"{RUNS / run / unlike} is not what {file} describes: {mend}")
    for name in sealed.records:
        if not _is_record(run, "metadata", STATE / name):
            raise PipelineError(f"{file} holds '{name}', which is no record of this run: delete {RUNS / run}")
    for path in [*_records(run, "metadata"), *_records(run, "incomplete")]:
        path.unlink()
    for name, text in sealed.records.items():
        (STATE / name).parent.mkdir(parents=True, exist_ok=True)
        (STATE / name).write_text(text, encoding="utf-8")
    for name in moved:
        utime(found[name], ns=(sealed.files[name].time,) * 2)
    write_text(marker, sha256_of(file))


def _read(run: str) -> Seal:
    file = RUNS / run / SEAL
    try:
        return Seal.model_validate_json(file.read_bytes()) if file.exists() else Seal()
    except ValidationError as error:
        raise PipelineError(f"{file} is not a seal ({error.errors()[0]['msg']}): delete {RUNS / run}") from error


def _marker(run: str) -> Path:
    """Holds the digest of the seal that the times and records in this working directory belong to."""
    return STATE / "seals" / run


def _files(run: str) -> dict[str, Path]:
    """The files in the run's directory by name. A seal's names are only compared with these, never opened."""
    paths = (path for path in (RUNS / run).rglob("*") if path.is_file() and path != RUNS / run / SEAL)
    return {str(path.relative_to(RUNS / run)): path for path in paths}


def _records(run: str, kind: str) -> list[Path]:
    return [path for path in (STATE / kind).rglob("*") if path.is_file() and _is_record(run, kind, path)]


def _is_record(run: str, kind: str, path: Path) -> bool:
    """Whether this is Snakemake's record of an output of this run, and no link leads out of `.snakemake/KIND`.

    Its name is the output's path in base64; if that is long, directories that begin with @ hold its first parts.
    """
    with suppress(ValueError):
        *cut, last = path.relative_to(STATE / kind).parts
        output = b64decode("".join([*(part[1:] for part in cut), last]), b"-_", validate=True)
        inside = path.resolve().is_relative_to((STATE / kind).resolve()) and all(part[0] == "@" for part in cut)
        return inside and output.startswith(f"{RUNS / run}/".encode())
    return False


if __name__ == "__main__":
    try:
        seal(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
    except PipelineError as error:
        sys.exit(f"error: {error}")
