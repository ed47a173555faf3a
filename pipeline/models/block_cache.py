"""Keys and values that a pass over whole sequences leaves to passes over one block of them.

Where every position sees every other: let x_b be the state at the start of a block. A pass over x_b keeps every layer's
keys and values; a pass over the block of a later state x_s computes its own keys and values afresh and takes those of
all other positions from x_b. Positions outside the block show the same tokens in both states, but their representations
are those of x_b, so the posterior is p̃(v | x_b, x_s, i), not p(v | x_s, i). At x_s = x_b the two are equal.

Where a position sees its own block and those before it, the cache is exact, p̃ = p: what lies before a block is final
when the block begins, and what lies after it is not seen. So the first pass over a block starts where the block before
it did, whose tokens it sees in their final form for the first time, and ends with the block. With blocks of B, prompt
and answer of T tokens and s steps to a block this is T + B + (s - 1) B positions a block fewer than s T.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.models.base import blocks_of


@dataclass
class LayerCache:
    """The cache of one layer. Keys are kept as attention reads them, with their rotary embedding.

    Attributes:
        rows: which kept sequence each sequence of the pass belongs to; None if they are the same ones in order.
        before: final keys and values of all positions before those of the first pass.
    """

    block: slice
    rows: Int[Tensor, " m"] | None = None
    key: Float[Tensor, "n H T d"] | None = None
    value: Float[Tensor, "n H T d"] | None = None
    before: tuple[Float[Tensor, "n H b d"], Float[Tensor, "n H b d"]] | None = None

    def update(
        self, key: Float[Tensor, "m H S d"], value: Float[Tensor, "m H S d"]
    ) -> tuple[Float[Tensor, "m H T d"], Float[Tensor, "m H T d"]]:
        """The keys and values that attention reads: an empty cache keeps what it gets, a filled one completes it."""
        if self.key is None or self.value is None:
            if self.before is not None:
                key, value = torch.cat([self.before[0], key], dim=2), torch.cat([self.before[1], value], dim=2)
            self.key, self.value = key, value
            return key, value
        return self._completed(self.key, key), self._completed(self.value, value)

    def _completed(self, kept: Tensor, fresh: Tensor) -> Tensor:
        """All positions, with fresh entries for the block. Without `rows` they are written into `kept` itself, since
        each pass sets the block's entries before it reads them."""
        whole = kept if self.rows is None else kept[self.rows]
        whole[:, :, self.block] = fresh
        return whole

    def until(self, end: int, block: slice) -> "LayerCache":
        """An empty cache for a later block, with this one's keys and values of the positions before `end`."""
        if self.key is None or self.value is None:
            return LayerCache(block, before=self.before)
        return LayerCache(block, before=(self.key[:, :, :end], self.value[:, :, :end]))


@dataclass
class BlockCache:
    """The caches of all layers of a model. The first pass fills them; later passes are over the block alone.

    Attributes:
        block: the positions that are passed again and again, counted from the start of the prompt.
        exact: whether positions after the block are not seen from it. Then the first pass must be over all sequences
            whose later blocks are passed.
        start: where the first pass starts.
        shown: which positions are no padding; None if none is.
        layers: empty until the first pass.
    """

    block: slice
    exact: bool = False
    start: int = 0
    shown: Bool[Tensor, "n T"] | None = None
    layers: list[LayerCache] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        return bool(self.layers) and self.layers[0].key is not None

    @property
    def positions(self) -> slice:
        """The positions of the next pass."""
        return self.block if self.filled else slice(self.start, self.block.stop if self.exact else None)

    @property
    def length(self) -> int:
        """T, the number of positions that a pass over the block attends to."""
        key = self.layers[0].key
        assert key is not None
        return key.shape[2]

    def fill(self, layers: int, shown: Bool[Tensor, "n T"] | None) -> None:
        """Get ready for the first pass."""
        self.shown, self.layers = shown, self.layers or [LayerCache(self.block) for _ in range(layers)]

    def of(self, rows: Int[Tensor, " m"]) -> "BlockCache":
        """A filled cache for passes over these rows of it, which may repeat; they are copied one layer at a time."""
        shown = None if self.shown is None else self.shown[rows]
        layers = [LayerCache(self.block, rows, kept.key, kept.value) for kept in self.layers]
        return BlockCache(self.block, self.exact, self.start, shown, layers)

    def only(self, rows: Bool[Tensor, " n"]) -> "BlockCache":
        """A filled cache for passes over the chosen rows of it; itself if all are chosen, or if it is empty."""
        return self if not self.filled or bool(rows.all()) else self.of(rows.nonzero()[:, 0])


def next_cache(model: nn.Module, block: slice, previous: BlockCache | None = None) -> BlockCache:
    """An empty cache for a block of a model's input; `previous` is that of the block before it.

    A model that predicts a token one position earlier passes that position too; one that sees block by block also the
    end of the prompt, where that is in the same block.
    """
    first, size = max(0, block.start - bool(getattr(model, "shifted", False))), blocks_of(model)
    if size is None:
        return BlockCache(slice(first, block.stop))
    block = slice(first // size * size, block.stop)
    if previous is None:
        return BlockCache(block, exact=True)
    start = previous.block.start if previous.filled else previous.start
    return BlockCache(block, True, start, layers=[layer.until(start, block) for layer in previous.layers])
