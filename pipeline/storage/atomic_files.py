"""Writing that never leaves half a file: everything goes to a temporary name and is renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.errors import PipelineError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for a file or a directory that takes the place of `path` when the block succeeds.

    It lies in `.NAME.tmp` beside `path`. That name is fixed: what a killed process left there, a library's own
    temporaries too, goes when `path` is written again. No path is ever written by two processes at once.

    Raises:
        PipelineError: when the disk is full or `path` cannot be written; it names `path`.
    """
    folder = _leftover(path)
    temporary = folder / path.name
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield temporary
        if temporary.is_dir() and path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise PipelineError(f"cannot write {path}: {reason}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def discard(path: Path) -> None:
    """Remove a file, if it exists, and what a killed process left of writing it."""
    path.unlink(missing_ok=True)
    shutil.rmtree(_leftover(path), ignore_errors=True)


def _leftover(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def write_text(path: Path, text: str) -> None:
    """A text file, complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Indented JSON; PipelineError for NaN and infinities."""
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise PipelineError(f"cannot write {path}: {error}") from error
    write_text(path, text + "\n")


def read_json(path: Path, *keys: str) -> Any:
    """The content of a JSON file; PipelineError if it is missing, truncated or lacks one of `keys`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PipelineError(f"cannot read {path} ({error}): delete it and run again") from error
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            raise PipelineError(f"{path} has no '{key}': delete it and run again")
    return content


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
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
