"""Keys and values that a pass over whole sequences leaves to passes over one block of them.

Let x_b be the state at the start of a block. A pass over x_b keeps every layer's keys and values; a pass over the block
of a later state x_s computes its own keys and values afresh and takes those of all other positions from x_b. Positions
outside the block show the same tokens in both states, but their representations are those of x_b, so the posterior is
p̃(v | x_b, x_s, i), not p(v | x_s, i). At x_s = x_b the two are equal.
"""

from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class LayerCache:
    """Of one layer. Keys are kept as attention reads them, with their rotary embedding.

    Attributes:
        rows: which kept sequence each sequence of the pass belongs to; None if they are the same ones in order.
    """

    block: slice
    rows: Int[Tensor, " m"] | None = None
    key: Float[Tensor, "n H T d"] | None = None
    value: Float[Tensor, "n H T d"] | None = None

    def update(
        self, key: Float[Tensor, "m H S d"], value: Float[Tensor, "m H S d"]
    ) -> tuple[Float[Tensor, "m H T d"], Float[Tensor, "m H T d"]]:
        """The keys and values that attention reads: an empty cache keeps what it gets, a filled one completes it."""
        if self.key is None or self.value is None:
            self.key, self.value = key, value
            return key, value
        return self._completed(self.key, key), self._completed(self.value, value)

    def _completed(self, kept: Tensor, fresh: Tensor) -> Tensor:
        """Without `rows` it writes into what is kept: no pass reads the block's entries before it has set them."""
        whole = kept if self.rows is None else kept[self.rows]
        whole[:, :, self.block] = fresh
        return whole


@dataclass
class BlockCache:
    """Of all layers of a model. The first pass that gets it is over whole sequences, all others over the block alone.

    Attributes:
        block: the positions of the block, counted from the start of the prompt.
        shown: which positions are no padding; None if none is.
        layers: empty until the first pass.
    """

    block: slice
    shown: Bool[Tensor, "n T"] | None = None
    layers: list[LayerCache] = field(default_factory=list)

    @property
    def filled(self) -> bool:
        return bool(self.layers)

    @property
    def length(self) -> int:
        """T, the number of positions that a pass over the block attends to."""
        key = self.layers[0].key
        assert key is not None
        return key.shape[2]

    def fill(self, layers: int, shown: Bool[Tensor, "n T"] | None) -> None:
        """Get ready for the pass over whole sequences."""
        self.shown, self.layers = shown, [LayerCache(self.block) for _ in range(layers)]

    def of(self, rows: Int[Tensor, " m"]) -> "BlockCache":
        """For passes over these of the kept sequences, which may repeat. They are copied one layer at a time."""
        shown = None if self.shown is None else self.shown[rows]
        layers = [LayerCache(self.block, rows, kept.key, kept.value) for kept in self.layers]
        return BlockCache(self.block, shown, layers)

    def only(self, rows: Bool[Tensor, " n"]) -> "BlockCache":
        """For passes over the chosen ones of the kept sequences; itself if that is all of them."""
        return self if not self.filled or bool(rows.all()) else self.of(rows.nonzero()[:, 0])
