"""Where a file came from: written into the metadata of Parquet and safetensors, and into the report."""

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

from pipeline import __version__
from pipeline.storage.atomic_files import digest

PACKAGES = ("torch", "transformers", "tokenizers")
CPUINFO = Path("/proc/cpuinfo")


@cache
def git_revision() -> str:
    """The commit of the working directory, "+" appended when files differ from it; "unknown" outside git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.strip() + ("+" if dirty.strip() else "")


def provenance(settings: SimpleNamespace) -> dict[str, str]:
    """Version, git revision and the sections that the stage was given."""
    return {"version": __version__, "git": git_revision(), "settings": plain_json(settings)}


def measured(settings: SimpleNamespace, checkpoint: Path, weights: Sequence[Path]) -> dict[str, Any]:
    """What a row of results stands on: what was asked and how, of which weights (files of the checkpoint), on what."""
    decoding = settings.evaluate.model_dump(include={"tokens_per_step", "block_length", "prefill"})
    return {
        **{key: settings.task.get(key, "") for key in ("name", "template", "profile")},
        **decoding,
        "checkpoint": str(checkpoint),
        "weights": digest(*weights)[:16],
        "seed": settings.seed,
        "hardware": hardware(),
        "versions": {package: version(package) for package in PACKAGES} | {"pipeline": __version__},
    }


@cache
def hardware() -> str:
    """The name of the GPU, else of the processor."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch and torch.cuda.is_available() else processor()


def processor() -> str:
    """The processor as Linux names it; what Python knows elsewhere."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def plain_json(settings: SimpleNamespace) -> str:
    """The sections as JSON text, keys sorted."""
    sections = {
        key: value.model_dump() if isinstance(value, BaseModel) else value for key, value in vars(settings).items()
    }
    return json.dumps(sections, sort_keys=True)
