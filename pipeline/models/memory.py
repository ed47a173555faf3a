"""Memory of a process that trains, in bytes, by the formulas of docs/llada.md. Does not import PyTorch."""

from dataclasses import dataclass

from pipeline.models.flops import Shape
from pipeline.runtime.memory_limits import CHUNK

USABLE = 0.92
"""The share of a card's memory that training may take. The CUDA context, libraries and fragmentation take the rest."""


@dataclass(frozen=True)
class Training:
    """The sizes that decide how much memory a process needs to train.

    Attributes:
        rows: sequences of one forward pass, each of `prompt` + `answer` tokens.
        itemsize: bytes of a weight.
        adapters: trained parameters of adapters; 0 if all weights train.
        copies: frozen policies that have weights of their own.
        parts: processes that share weights, gradients and moments (FSDP2).
        compiled: blocks are compiled: dropout masks and what they leave are computed again.
        whole: positions of a row at which the loss holds log p(v | x, i) of all v; 0 if it reads them in chunks.
    """

    shape: Shape
    rows: float
    prompt: int
    answer: int
    itemsize: int
    adapters: int = 0
    copies: int = 0
    parts: int = 1
    compiled: bool = False
    whole: int = 0

    def bytes(self, *, recompute: bool) -> float:
        """Weights, training state (16 bytes per trained parameter, the weight included; 18 if it is in bfloat16),
        activations, logits (12 bytes each of a chunk, or 20 of all), and the head in fp32. With gradient checkpointing
        (`recompute`) only a block's input is kept, and one block at a time.
        """
        shape, tokens = self.shape, self.rows * (self.prompt + self.answer)
        weights = float(self.itemsize * shape.parameters)
        each = 18.0 if self.itemsize == 2 else 16.0
        state = each * self.adapters or (each - self.itemsize) * shape.parameters
        block = tokens * self.activations()
        blocks = self.itemsize * tokens * shape.hidden * shape.layers + block if recompute else shape.layers * block
        chunk = 12.0 * min(CHUNK, self.rows * self.answer * shape.vocabulary)
        logits = 20.0 * self.rows * self.whole * shape.vocabulary or chunk
        head = 4.0 * shape.vocabulary * shape.hidden if self.itemsize == 2 else 0.0
        return (weights * (1 + self.copies) + state) / self.parts + blocks + logits + head

    def activations(self) -> float:
        """Bytes that a block keeps of each token for its gradient: 12 values of width D and 4 of width I; with adapters
        also the input of each linear layer after dropout, and the dropout mask."""
        hidden, middle = self.shape.hidden, self.shape.intermediate
        values = self.itemsize * (12.0 * hidden + 4.0 * middle)
        dropped = (self.itemsize + 1.0) * (6 * hidden + middle)
        return values + dropped if self.adapters and not self.compiled else values

    def recomputes(self, wanted: bool | None, card: float | None) -> bool:
        """Whether to train with gradient checkpointing: as wanted; for None, whether a card with `card` bytes is too
        small without. A CPU (`card` None) never is."""
        if wanted is not None:
            return wanted
        return card is not None and self.bytes(recompute=False) > USABLE * card
