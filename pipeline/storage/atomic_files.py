"""Writes files completely or not at all: under a temporary name first, which is then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for a file or a directory that replaces `path` when the block succeeds.

    It lies in the directory `.NAME.tmp` beside `path`. The fixed name means that writing `path` again removes what a
    killed process left, temporary files of libraries included. Two processes must not write the same path at once.

    Raises:
        PipelineError: if `path` cannot be written, for example because the disk is full.
    """
    folder = _temporary_directory(path)
    temporary = folder / path.name
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield temporary
        if temporary.is_dir() and path.exists():
            path.rename(folder / "replaced")
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise PipelineError(f"cannot write {path}: {reason}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def discard(path: Path) -> None:
    """Remove a file, if it exists, and the temporary directory of a process that was killed while writing it."""
    path.unlink(missing_ok=True)
    shutil.rmtree(_temporary_directory(path), ignore_errors=True)


def _temporary_directory(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Write indented JSON; PipelineError for NaN and infinities."""
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise PipelineError(f"cannot write {path}: {error}") from error
    write_text(path, text + "\n")


def read_json(path: Path, *keys: str) -> Any:
    """The content of a JSON file; PipelineError if the file is missing or truncated, or lacks one of the keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PipelineError(f"cannot read {path} ({error}): delete it and run again") from error
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            raise PipelineError(f"{path} has no '{key}': delete it and run again")
    return content


def read_tensors(path: Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; PipelineError if it is missing or truncated."""
    if not path.is_file():
        raise PipelineError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise PipelineError(f"{path} is not a complete safetensors file ({error}): delete it and run again") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: Path | str) -> str:
    """SHA-256 over strings and the bytes of files."""
    total = hashlib.sha256()
    for part in parts:
        total.update((sha256_of(part) if isinstance(part, Path) else part).encode())
    return total.hexdigest()
