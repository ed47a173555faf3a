"""Records of how a file was made, for the metadata of Parquet and safetensors files and for reports."""

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline import __version__
from pipeline.settings.stages import EvaluateSettings, plain_json
from pipeline.settings.validation import Section
from pipeline.storage.atomic_files import digest
from pipeline.storage.fingerprint import fingerprint_of

PACKAGES = ("torch", "transformers", "tokenizers")
CPUINFO = Path("/proc/cpuinfo")


@cache
def git_revision() -> str:
    """The commit of the working directory, with "+" appended if files differ from it; "unknown" outside Git."""
    commands = ["git", "rev-parse", "--short", "HEAD"], ["git", "status", "--porcelain", "-uno"]
    try:
        commit, changes = (subprocess.run(command, capture_output=True, check=True).stdout for command in commands)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.decode().strip() + ("+" if changes.strip() else "")


def provenance(settings: Section) -> dict[str, str]:
    """The version, the Git revision and the settings of the stage."""
    return {"version": __version__, "git": git_revision(), "settings": plain_json(settings)}


MadeWith = dict[str, str]
"""What a job's outputs were made with: the stage, a digest of its settings, and digests of its code and data. It stands
under the key `origin` of the job's timing."""
MADE_WITH = TypeAdapter(MadeWith)


def made_with(stage: str, settings: str, code: str) -> MadeWith:
    """What a stage notes of itself, from its arguments."""
    return {"stage": stage, "settings": digest(settings)[:16], "code": code}


def origin_of(timing: Path) -> MadeWith:
    """What the file of a timing says that its job was made with; {} if it is gone, no JSON, or as in `origin_in`."""
    with suppress(OSError, ValueError):
        return origin_in(json.loads(timing.read_text(encoding="utf-8")))
    return {}


def origin_in(timing: Any) -> MadeWith:
    """What the content of a timing says that its job was made with; {} if it says nothing, or something malformed."""
    with suppress(ValueError, LookupError, TypeError):
        return MADE_WITH.validate_python(timing["origin"])
    return {}


def result_provenance(
    settings: EvaluateSettings, checkpoint: Path, weights: Sequence[Path], hardware: str
) -> dict[str, object]:
    """How a row of results was made: task, decoding, weights (files of the checkpoint), seed, hardware, versions."""
    return {
        **{key: getattr(settings.task, key, "") for key in ("name", "template", "profile")},
        **settings.evaluate.model_dump(include={"tokens_per_step", "block_length", "cache", "prefill"}),
        "checkpoint": str(checkpoint),
        "weights": fingerprint_of(*weights)[:16],
        "seed": settings.seed,
        "hardware": hardware,
        "versions": {package: version(package) for package in PACKAGES} | {"pipeline": __version__},
    }


@cache
def hardware() -> str:
    """The name of the GPU, or else of the processor."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch and torch.cuda.is_available() else processor()


def processor() -> str:
    """The processor's name in /proc/cpuinfo; on other systems what Python reports."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
