"""Random numbers that belong to a row, not to a place in a batch.

Noise is keyed by (seed, stream, round, prompt, state, sample) with a counter-based generator, so shards, batch
sizes and the number of processes do not change a row, and a resumed run draws what it would have drawn.
"""

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Stream(IntEnum):
    """Independent uses of one seed."""

    PROMPTS = 1
    PROJECTION = 2
    COMPLETION = 3
    REPLAY = 4
    BASE = 5
    EVALUATION = 6
    INITIALIZATION = 7
    KL = 8


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """A NumPy generator for everything under one key."""
    return np.random.default_rng([seed, int(stream), *key])


def torch_generator(seed: int, stream: Stream, *key: int) -> torch.Generator:
    """A PyTorch generator for everything under one key."""
    return torch.Generator().manual_seed(int(generator(seed, stream, *key).integers(2**63)))


def uniforms(
    seed: int, stream: Stream, round_: int, rows: Iterable[tuple[int, int, int]], width: int
) -> Float[Tensor, "n width"]:
    """Independent U[0, 1) in float64, one row of `width` for each (prompt, state, sample)."""
    key = generator(seed, stream, round_).integers(2**63, size=2, dtype=np.uint64)
    noise = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, prompt, state, sample])).random(width)
        for prompt, state, sample in rows
    ]
    return torch.from_numpy(np.stack(noise)) if noise else torch.empty(0, width, dtype=torch.float64)
