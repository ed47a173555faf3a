"""The order in which positions are revealed: k at a time, in blocks from left to right.

Blocks are counted from `offset` positions before the answer's start, so the first block has `offset` positions fewer.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.ctmc.masking import REVEALED


def schedule(
    masked: Bool[Tensor, "n L"],
    noise: Float[Tensor, "n L"],
    tokens_per_step: int,
    block_length: int | None = None,
    offset: int = 0,
) -> Int[Tensor, "n L"]:
    """The step that reveals each masked position, in uniformly random order within its block; `REVEALED` elsewhere.

    A block with m masked positions takes ⌈m / tokens_per_step⌉ steps. `noise` are uniforms in [0, 1).
    """
    block = block_of(masked, block_length, offset)
    rank = torch.where(masked, block + noise, math.inf).argsort(dim=1).argsort(dim=1)
    count = torch.zeros(len(masked), int(block[-1]) + 1, dtype=torch.long, device=masked.device)
    count.index_add_(1, block, masked.long())
    steps = -(-count // tokens_per_step)
    first_rank, first_step = (value.cumsum(dim=1) - value for value in (count, steps))
    step = first_step[:, block] + (rank - first_rank[:, block]) // tokens_per_step
    return torch.where(masked, step, REVEALED)


def blocks(length: int, block_length: int | None, offset: int = 0) -> list[slice]:
    """The positions of each block of an answer, from left to right; the last may be shorter."""
    size = block_length or length
    return [slice(first, end) for first, end in pairwise([0, *range(size - offset, length, size), length])]


def steps_in(unmask_step: Int[Tensor, "n L"], block: slice) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """(first step, number of steps) of each row in a block; (0, 0) for a row with nothing to reveal there."""
    last = unmask_step[:, block].amax(dim=1)
    revealed = unmask_step[:, block] == REVEALED
    first = torch.where(revealed, last[:, None], unmask_step[:, block]).amin(dim=1)
    some = last != REVEALED
    return first * some, (last - first + 1) * some


def leftmost(masked: Bool[Tensor, "n L"], block_length: int | None, offset: int = 0) -> Bool[Tensor, "n L"]:
    """The masked positions of each row's first block that has any."""
    if block_length is None:
        return masked
    block = block_of(masked, block_length, offset).expand_as(masked)
    return masked & (block == block.masked_fill(~masked, masked.shape[1]).amin(dim=1, keepdim=True))


def block_of(
    masked: Bool[Tensor, "n L"], block_length: int | None, offset: int | Int[Tensor, "n 1"]
) -> Int[Tensor, "*#n L"]:
    """The number of each position's block; `offset` is that of all rows, or of each."""
    return (torch.arange(masked.shape[1], device=masked.device) + offset) // (block_length or masked.shape[1])
