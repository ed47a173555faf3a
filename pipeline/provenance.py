"""Where a file came from: written into the metadata of Parquet and safetensors, and into the report."""

import json
import subprocess
from functools import cache
from types import SimpleNamespace

from pydantic import BaseModel

from pipeline import __version__


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


def plain_json(settings: SimpleNamespace) -> str:
    """The sections as JSON text, keys sorted."""
    sections = {
        key: value.model_dump() if isinstance(value, BaseModel) else value for key, value in vars(settings).items()
    }
    return json.dumps(sections, sort_keys=True)
