"""Parameters of a transformer and floating-point operations of its passes. Does not import PyTorch.

N blocks of width D, queries of width W (D in most models), keys and values of width E, MLPs of width I, a vocabulary of
V; sequences of T tokens, predictions at s of them:

    M = N (2 D W + 2 D E + 3 D I)           parameters in the blocks' matrix products; 2 D I where no gate multiplies
    P = M + (2 N + 1) D + 2 V D             all parameters (V D once if head and embedding are tied)
    A = r Σ (inputs + outputs)              adapters of rank r (LoRA)
    F = 2 T (M + A) + 4 T U W N + 2 V D s   operations of a forward pass of one sequence; U = T, or with a block cache
                                            the length of the sequence of which the T tokens of a block are passed
    training: 3 F; 2 T M + 2 V D s less if the base is frozen; F with s = 0 more with gradient checkpointing, which
        without adapters need not repeat a block's last product, 2 T D I

A multiplication and an addition are two operations. The gradient of a matrix product costs one product for its input
and one for its weights; a frozen base needs only the first. Norms, softmax, sampling and the optimiser are not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.settings.sections import Adapter


class Card(NamedTuple):
    """Operations per second of dense bfloat16 products, and bytes of memory."""

    flops: float
    memory: float


CARDS = {
    "a100": Card(312e12, 80e9),
    "b200": Card(2250e12, 180e9),
    "h100": Card(989e12, 80e9),
    "h200": Card(989e12, 141e9),
}
"""As the makers state them (SXM modules)."""

UNGATED = ("bert", "camembert", "distilbert", "electra", "esm", "roberta", "xlm-roberta")
"""Architectures with two matrices in their MLPs instead of three, by `model_type`."""


def peak(device: str) -> float | None:
    """Peak operations per second of a device, by its name, such as "NVIDIA H100 80GB HBM3"; None if unknown."""
    return next((card.flops for name, card in CARDS.items() if name in device.lower()), None)


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer as in the formulas above."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False
    head: int = 0
    gated: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """From a config.json with the keys of a Llama or of BERT, or those of LLaDA or DistilBERT on the Hub, without
        biases and norms of heads. ELECTRA's embeddings, which are narrower, count as if they were not.

        Raises:
            KeyError: for a size that none of these keys names.
        """

        def size(*names: str) -> int:
            found = next((config[name] for name in names if config.get(name) is not None), None)
            if found is None:
                raise KeyError(names[0])
            return int(found)

        head, heads = int(config.get("head_dim") or 0), size("num_attention_heads", "n_heads")
        hidden = size("hidden_size", "d_model", "dim")
        return cls(
            hidden=hidden,
            intermediate=size("intermediate_size", "mlp_hidden_size", "hidden_dim"),
            layers=size("num_hidden_layers", "n_layers"),
            heads=heads,
            kv_heads=size("num_key_value_heads", "n_kv_heads", "num_attention_heads", "n_heads"),
            vocabulary=size(*(["embedding_size"] if "d_model" in config else []), "vocab_size"),
            tied=bool(config.get("tie_word_embeddings") or config.get("weight_tying")),
            head=head if head * heads != hidden else 0,
            gated=config.get("model_type") not in UNGATED,
        )

    @classmethod
    def of_module(cls, module: object) -> "Shape | None":
        """That of a module's `config`; None without one, or if it has other keys."""
        config: Any = getattr(module, "config", None)
        try:
            return None if config is None else cls.of(config.to_dict())
        except (KeyError, AttributeError):
            return None

    @property
    def wide(self) -> int:
        """W, the values of all heads of a token."""
        return self.heads * (self.head or self.hidden // self.heads)

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer of a block."""
        width, wide, middle = self.hidden, self.wide, self.intermediate
        narrow = wide // self.heads * self.kv_heads
        attention = {"q_proj": (width, wide), "k_proj": (width, narrow), "v_proj": (width, narrow)}
        middles = {"gate_proj": (width, middle), "up_proj": (width, middle), "down_proj": (middle, width)}
        if not self.gated:
            del middles["gate_proj"]
        return {**attention, "o_proj": (wide, width), **middles}

    @property
    def products(self) -> int:
        """M, the parameters in the blocks' matrix products."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear.values())

    @property
    def parameters(self) -> int:
        """P, all parameters."""
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.products + (2 * self.layers + 1) * self.hidden + embeddings

    def adapters(self, adapter: Adapter | None) -> int:
        """A, the parameters of the adapters; 0 without any. Targets with names of other architectures than a Llama's
        count as all linear layers."""
        if adapter is None:
            return 0
        known = [self.linear[name] for name in adapter.targets if name in self.linear]
        return self.layers * adapter.rank * sum(map(sum, known or self.linear.values()))

    @property
    def keys_and_values(self) -> int:
        """2 N E, the values of a token's keys and values in all layers."""
        return 2 * self.layers * self.linear["k_proj"][1]

    def forward(self, rows: float, length: int, read: float, adapters: int = 0, keys: int | None = None) -> float:
        """F of `rows` sequences of `length` tokens, with predictions at `read` positions in all; `keys` is U if it is
        not T."""
        attention = 4 * rows * length * (keys or length) * self.wide * self.layers
        return attention + self._matrices(rows * length, read) + 2 * rows * length * adapters

    def training(self, rows: float, length: int, read: float, adapters: int = 0, recompute: bool = False) -> float:
        """Operations of a forward and a backward pass; with adapters the base is frozen."""
        flops = 3 * self.forward(rows, length, read, adapters)
        if adapters:
            flops -= self._matrices(rows * length, read)
        if recompute:
            last = 0 if adapters else self.layers * self.hidden * self.intermediate
            flops += self.forward(rows, length, 0, adapters) - 2 * rows * length * last
        return flops

    def _matrices(self, tokens: float, read: float) -> float:
        return 2 * tokens * self.products + 2 * self.vocabulary * self.hidden * read
