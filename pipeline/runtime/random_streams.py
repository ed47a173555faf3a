"""Random numbers that depend on the row, not on its place in a batch.

A counter-based generator is keyed by (seed, stream, round, prompt, state, sample). Shards, batch sizes and the number
of processes therefore do not change a row, and a resumed run draws the same numbers as an uninterrupted one.
"""

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MULTIPLIER = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], dtype=np.uint64)
WEYL = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], dtype=np.uint64)
LOW, HALF = np.uint64(2**32 - 1), np.uint64(32)


class Stream(IntEnum):
    """What random numbers are drawn for. Each purpose has a stream of its own, independent of the others."""

    PROMPTS = 1
    PROJECTION = 2
    COMPLETION = 3
    REPLAY = 4
    BASE = 5
    EVALUATION = 6
    INITIALIZATION = 7
    KL = 8
    ESTIMATORS = 9
    DROPOUT = 10


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """A NumPy generator for one key. Of up to four numbers, those that differ by zeros at their end are one key."""
    return np.random.default_rng([seed, int(stream), *key])


def torch_generator(seed: int, stream: Stream, *key: int) -> torch.Generator:
    """A PyTorch generator for one key."""
    return torch.Generator().manual_seed(_entropy(seed, stream, *key))


def seed_torch(seed: int, stream: Stream, *key: int) -> None:
    """Seed PyTorch's global generator, which initialises the weights of modules."""
    torch.manual_seed(_entropy(seed, stream, *key))


def _entropy(seed: int, stream: Stream, *key: int) -> int:
    return int(generator(seed, stream, *key).integers(2**63))


def uniforms(
    seed: int, stream: Stream, round_: int, rows: Iterable[tuple[int, int, int]], width: int
) -> Float[Tensor, "n width"]:
    """Independent U[0, 1) in float64: for each (prompt, state, sample) a row of `width` numbers.

    Each row equals `Generator(Philox(key=key, counter=[0, prompt, state, sample])).random(width)`.
    """
    key = generator(seed, stream, round_).integers(2**63, size=2, dtype=np.uint64)
    counters = np.array(list(rows), dtype=np.uint64).reshape(-1, 3)
    blocks = -(-width // 4)
    words = np.empty((4, len(counters), blocks), dtype=np.uint64)
    words[0] = np.arange(1, blocks + 1)
    words[1:] = counters.T[:, :, None]
    bits = np.stack(philox(words, key), axis=2).reshape(len(counters), 4 * blocks)[:, :width]
    return torch.from_numpy((bits >> np.uint64(11)) * 2.0**-53)


def philox(counter: np.ndarray, key: np.ndarray) -> list[np.ndarray]:
    """Philox-4×64-10 (Salmon et al. 2011) of many counters at once, [4, *n] uint64.

    NumPy's own Philox needs a generator object for each row and takes some thirty times as long.
    """
    a, b, c, d = counter
    with np.errstate(over="ignore"):
        for round_ in range(10):
            k, m = key + np.uint64(round_) * WEYL
            (high_a, low_a), (high_c, low_c) = _product(a, MULTIPLIER[0]), _product(c, MULTIPLIER[1])
            a, b, c, d = high_c ^ b ^ k, low_c, high_a ^ d ^ m, low_a
    return [a, b, c, d]


def _product(x: np.ndarray, y: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """The high and the low 64 bits of x · y."""
    x_low, x_high, y_low, y_high = x & LOW, x >> HALF, y & LOW, y >> HALF
    cross = (x_low * y_low >> HALF) + (x_low * y_high & LOW) + (x_high * y_low & LOW)
    return x_high * y_high + (x_low * y_high >> HALF) + (x_high * y_low >> HALF) + (cross >> HALF), x * y
