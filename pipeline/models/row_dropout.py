"""Dropout whose masks belong to the rows of a batch, not to the process or the pass that computes them.

    y = 1[h ≥ p 2³²] x / (1 - p),      h = mix(mix(key ^ mix(t)) ^ mix(d)), a hash of 32 bits,

with the key of the row and layer, the position t counted from the end of the batch and the feature d. The key is drawn
from (seed, round, update, row of the batch, layer), so gradient accumulation, the number of processes, padding and
gradient checkpointing change no mask. Integer operations alone make it: compiled blocks fuse them with their
neighbours; without compilation a GPU writes every intermediate to memory, many times the traffic of PyTorch's own.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.runtime.random_streams import Stream, uniforms

BITS, MULTIPLIER = 32, 0x45D9F3B
"""The size of the hash and its multiplier, which has 27 bits, so that products fit into 64."""


class RowDropout(nn.Module):
    """Dropout at a rate p for inputs [n·m, …, D]: m rows in a row for each of the n rows that have `keys`. Several
    passes of a row in one update have the same mask. Before keys are set it is PyTorch's own dropout."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.keys: Int[Tensor, " n"] | None = None  # no buffer: DDP would copy those of rank 0 to every rank
        self.cut: Int[Tensor, ""] | None = None

    def forward(self, x: Float[Tensor, "r *T D"]) -> Float[Tensor, "r *T D"]:
        if not self.training or self.rate == 0:
            return x
        if self.keys is None:
            return nn.functional.dropout(x, self.rate)
        part = torch.arange(x.shape[0] // self.keys.shape[0], device=x.device)
        keys = (self.keys[:, None] ^ _mix(part)).flatten()
        kept = keep(keys, x[0, ..., 0].numel(), x.shape[-1], self.rate, self.cut)
        return torch.where(kept.view_as(x), x * (1 / (1 - self.rate)), 0.0)


def keep(
    keys: Int[Tensor, " r"], tokens: int, width: int, rate: float, cut: Int[Tensor, ""] | None = None
) -> Bool[Tensor, "r T D"]:
    """Which values stay: each with the probability 1 - rate, independently for all that one can tell; `cut` as in
    `draw_masks`."""
    from_end = torch.arange(tokens, device=keys.device).flip(0) + (0 if cut is None else cut)
    of_token = _mix(keys[:, None] ^ _mix(from_end))
    return _mix(of_token[:, :, None] ^ _mix(torch.arange(width, device=keys.device))) >= int(rate * 2**BITS)


def _mix(value: Tensor) -> Tensor:
    """A permutation of the numbers of 32 bits that changes about half of the bits for any change; 0 stays 0."""
    for _ in range(2):
        value = ((value ^ (value >> 16)) * MULTIPLIER) & (2**BITS - 1)
    return value ^ (value >> 16)


def draw_masks(
    module: nn.Module, seed: int, round_: int, update: int, rows: range, cut: int, device: torch.device
) -> None:
    """Give every `RowDropout` in a module the keys of these rows of the update's batch, of which it sees all columns
    but `cut` at the end."""
    layers = [part for part in module.modules() if isinstance(part, RowDropout) and part.rate]
    if layers:
        drawn = uniforms(seed, Stream.DROPOUT, round_, [(update, row, 0) for row in rows], len(layers))
        keys = (drawn.T * 2**BITS).long().to(device)
        for layer, own in zip(layers, keys, strict=True):
            layer.cut = torch.tensor(cut, device=device)  # a number would be compiled into the block
            layer.keys = own.clone()  # a view would make the compiled block depend on its place in `keys`
