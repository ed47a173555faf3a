"""Where a file came from: written into the metadata of Parquet and safetensors, and into the report."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pipeline import __version__
from pipeline.settings.stages import EvaluateSettings, plain_json
from pipeline.settings.validation import Section
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


def provenance(settings: Section) -> dict[str, str]:
    """Version, git revision and the settings of the stage."""
    return {"version": __version__, "git": git_revision(), "settings": plain_json(settings)}


def result_origin(settings: EvaluateSettings, checkpoint: Path, weights: Sequence[Path]) -> dict[str, object]:
    """What a row of results rests on: the task, the decoding, the weights (files of the checkpoint), the hardware."""
    decoding = settings.evaluate.model_dump(include={"tokens_per_step", "block_length", "prefill"})
    return {
        **{key: getattr(settings.task, key, "") for key in ("name", "template", "profile")},
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
