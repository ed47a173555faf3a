"""Digests of weights from a sample of their values, and of their files from a sample of the bytes: SHA-256 of all 16 GB
of LLaDA-8B takes 13 seconds."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.storage.atomic_files import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

VALUES = 64
PIECES, PIECE, WHOLE = 256, 64, 2**26
"""A file of more than WHOLE bytes is read in PIECES pieces of PIECE bytes; a smaller one as a whole."""
CHECKPOINT = (".safetensors", ".json", ".jinja", ".txt")
"""Suffixes of the files that a checkpoint is made of."""


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


def checkpoint_digest(path: Path) -> str:
    """A digest of the files of a checkpoint, without PyTorch and in milliseconds: of small files all bytes, of large
    ones their size and pieces at equal distances. Times do not count. Of adapters, not of the base that they name.

    Raises:
        OSError: if a file cannot be read.
    """
    total = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in CHECKPOINT and file.is_file():
            size = file.stat().st_size
            total.update(f"{file.name} {size} ".encode())
            with file.open("rb") as content:
                for place in range(0, size, max(1, size // PIECES)) if size > WHOLE else [0]:
                    content.seek(place)
                    total.update(content.read(PIECE if size > WHOLE else -1))
    return total.hexdigest()
