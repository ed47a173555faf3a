"""`python -m pipeline.workflow.seal RUN`: what makes a run's directory trustworthy after DVC has moved it.

DVC compares bytes. Snakemake compares times and its records in `.snakemake`, and trusts a file that has neither. So
`seal.json`, in the run's directory and versioned with it, holds the SHA-256 and the time of every file, and
Snakemake's records as they are. When the bytes are those of the seal, the Snakefile restores times and records.
"""

import argparse
import sys
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from os import utime
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.storage.atomic_files import read_json, sha256_of, write_json

RUNS = Path("data/runs")
SEAL = "seal.json"
STATE = Path(".snakemake")


def seal(run: str) -> None:
    """Write the seal of a run that is finished. Files are read only if their time has changed.

    Raises:
        PipelineError: if there is no such run.
    """
    if not (RUNS / run).is_dir():
        raise PipelineError(f"{RUNS / run} does not exist")
    files = _read(run).get("files", {})
    for name, path in _files(run).items():
        time = path.stat().st_mtime_ns
        if files.get(name, {}).get("time") != time:
            files[name] = {"time": time, "sha256": sha256_of(path)}
    content = {
        "files": {name: files[name] for name in sorted(_files(run))},
        "records": {str(path.relative_to(STATE)): path.read_text() for path in sorted(_records(run, "metadata"))},
    }
    write_json(RUNS / run / SEAL, content)
    _mark(run)


def restore(run: str) -> None:
    """Give files that are as sealed their times and records back; leave what was made here since then alone.

    Raises:
        PipelineError: if the seal came from elsewhere and the files are not those that it describes.
    """
    sealed = _read(run)
    if not sealed:
        return
    here = _marker(run).exists() and _marker(run).read_text() == sha256_of(RUNS / run / SEAL)
    found, files = _files(run), sealed["files"]
    moved = [name for name in found.keys() & files if found[name].stat().st_mtime_ns != files[name]["time"]]
    if here and not moved:
        return
    differing = (name for name in moved if sha256_of(found[name]) != files[name]["sha256"])
    unlike = next(iter(sorted(found.keys() ^ files)), None) or next(differing, None)
    if unlike is None:
        _restore(run, sealed, moved)
    elif not here:
        raise PipelineError(
            f"{RUNS / run / unlike} is not what {RUNS / run / SEAL} describes: `dvc checkout --force` restores the"
            f" version that dvc.lock names; or delete {RUNS / run}"
        )


def _restore(run: str, sealed: dict[str, Any], moved: list[str]) -> None:
    for path in [*_records(run, "metadata"), *_records(run, "incomplete")]:
        path.unlink()
    for name, text in sealed["records"].items():
        (STATE / name).parent.mkdir(parents=True, exist_ok=True)
        (STATE / name).write_text(text)
    for name in moved:
        utime(RUNS / run / name, ns=(sealed["files"][name]["time"],) * 2)
    _mark(run)


def _read(run: str) -> dict[str, Any]:
    return read_json(RUNS / run / SEAL) if (RUNS / run / SEAL).exists() else {}


def _marker(run: str) -> Path:
    """Says which seal the times and records in this working directory belong to."""
    return STATE / "seals" / run


def _mark(run: str) -> None:
    _marker(run).parent.mkdir(parents=True, exist_ok=True)
    _marker(run).write_text(sha256_of(RUNS / run / SEAL))


def _files(run: str) -> dict[str, Path]:
    paths = (path for path in (RUNS / run).rglob("*") if path.is_file())
    return {str(path.relative_to(RUNS / run)): path for path in paths if path != RUNS / run / SEAL}


def _records(run: str, kind: str) -> Iterator[Path]:
    """Snakemake's records of a run's outputs: files whose name is the output's path in base 64, cut by "@/"."""
    for path in (STATE / kind).rglob("*"):
        name = "".join(part.lstrip("@") for part in path.relative_to(STATE / kind).parts)
        if path.is_file() and len(name) % 4 == 0 and urlsafe_b64decode(name).startswith(f"{RUNS / run}/".encode()):
            yield path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="name of the run, a directory in data/runs")
    try:
        seal(parser.parse_args().run)
    except PipelineError as error:
        sys.exit(f"error: {error}")
