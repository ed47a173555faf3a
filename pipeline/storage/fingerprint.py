"""Digests of weights from a sample of their values: SHA-256 of all 16 GB of LLaDA-8B takes 13 seconds."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.storage.atomic_files import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

VALUES = 64


def fingerprint(tensors: Iterable[tuple[str, "Tensor"]]) -> str:
    """A digest of tensors, in this order: of each its name, its shape and up to 64 values at equal distances from
    the first on; of n values the last n mod 64 are never among them.

    Training moves nearly every value of a tensor, so other weights have another fingerprint; but it does not protect
    against a change that is made on purpose.
    """
    total = hashlib.sha256()
    for name, value in tensors:
        sample = value.detach().flatten()[:: max(1, value.numel() // VALUES)][:VALUES]
        total.update(f"{name} {tuple(value.shape)}".encode())
        total.update(sample.float().cpu().numpy().tobytes())
    return total.hexdigest()


def fingerprint_of(*paths: Path) -> str:
    """The fingerprint of safetensors files, whatever the order of the tensors in each and its metadata.

    Raises:
        PipelineError: if a file is missing or truncated.
    """
    return fingerprint(item for path in paths for item in sorted(read_tensors(path)[0].items()))
