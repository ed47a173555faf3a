"""What sets a family of masked-diffusion transformers apart. Without PyTorch.

A family is one module that ends in `FAMILY = Family(…)` and `__getattr__ = plugin_of(FAMILY)`. Everything else is
shared: the checks of its files (`files.family`), the network (`network`), and the plug-in with its configuration for
transformers (`transformer`).
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import PipelineError
from pipeline.models import FAMILIES

if TYPE_CHECKING:
    from pipeline.models.base import Model

Size = Annotated[int, Field(ge=1, le=10**7)]
Token = Annotated[int, Field(ge=0)]


class Sizes(BaseModel):
    """The entries of config.json that a network is made of, under a Llama's keys and with a Llama's defaults.

    `block_size` is the number of positions of a block, for families that see block by block.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)

    vocab_size: Size = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)] = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    max_position_embeddings: Annotated[int, Field(ge=1, le=10**9)] = 2048
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    initializer_range: Annotated[float, Field(gt=0, lt=100)] = 0.02
    tie_word_embeddings: bool = False
    block_size: Size | None = None
    mask_token_id: Token
    eos_token_id: Token | list[Token] | None = None
    bos_token_id: Token | None = None

    @model_validator(mode="after")
    def _fit(self) -> "Sizes":
        if self.head_dim is None and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(f"{self.hidden_size} values do not split into {self.num_attention_heads} heads of pairs")
        if self.head and self.head % 2:
            raise ValueError(f"the rotary embedding turns pairs, but a head has {self.head} values")
        if self.num_attention_heads % (self.num_key_value_heads or 1):
            heads = f"{self.num_attention_heads} heads, {self.num_key_value_heads} for keys and values"
            raise ValueError(f"{heads}: the first must be a multiple of the second")
        if self.mask_token_id >= self.vocab_size:
            raise ValueError(f"mask_token_id {self.mask_token_id} is not in a vocabulary of {self.vocab_size}")
        return self

    @property
    def head(self) -> int:
        """Values of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, eq=False)
class Family:
    """Networks with one kind of attention, prediction and checkpoint.

    Attributes:
        name: its module, `model.name`.
        kind: `model_type` in config.json.
        architecture: the class that a config.json of its own names.
        body: the transformer in transformers, such as Llama, whose blocks and names of tensors it has.
        block_length: B, if position i sees j only where ⌊j/B⌋ ≤ ⌊i/B⌋, counted from the first token of the prompt;
            `block_size` in config.json says another. None if every position sees every other.
        shifted: whether token i is predicted at position i - 1, and token 0 at position 0.
        query_bias: whether queries, keys and values have biases.
        head_norms: whether queries and keys are normalised head by head.
        defaults: entries of config.json where a checkpoint has none.
        required: entries without which a checkpoint cannot be read.
        off: options that must be false, 0 or null.
        left_out: entries of a checkpoint's config.json that are not saved again.
        convert: config.json → the arguments of the body's configuration; None if it has the body's own keys. It raises
            ValueError for an option that the network does not implement, KeyError for an entry that is missing.
        export: what `exported` does besides.
        keys: key of config.json → the body's, for messages.
        tensors: pattern of the Hub's names of tensors → the body's; empty if they are the same.
        published: the sizes of its best-known checkpoint, which an estimate assumes for a name on the Hub.
    """

    name: str
    kind: str
    architecture: str
    body: str
    published: Sizes
    block_length: int | None = None
    shifted: bool = False
    query_bias: bool = False
    head_norms: bool = False
    defaults: Mapping[str, object] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    export: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)

    def of_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the body's configuration for a config.json, which `original` keeps.

        No pad_token_id: its embedding would get no gradient. ValueError and KeyError as in `convert`.
        """
        if self.convert:
            return self.convert(config)
        for key in self.required:
            if config.get(key) is None:
                raise KeyError(key)
        known = {key: value for key, value in config.items() if value is not None and key != "attn_implementation"}
        blocks = {"block_size": self.block_length} if self.block_length else {}
        return {**blocks, **self.defaults, **known, "pad_token_id": None, "original": config}

    def exported(self, config: dict[str, Any]) -> dict[str, Any]:
        """config.json as the published code of the family reads it, which wants transformers 4.

        That of a model made here has the keys of transformers 5; a published checkpoint's is left as it is.
        """
        if "rope_parameters" not in config:
            return config
        found = {**config, "rope_theta": config["rope_parameters"]["rope_theta"], "pad_token_id": None}
        for key in ("rope_parameters", "original"):
            found.pop(key, None)
        found["torch_dtype"] = found.pop("dtype", "float32")
        return self.export(found) if self.export else found

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Every tensor by the body's name."""
        width, middle, rows = sizes.hidden_size, sizes.intermediate_size, sizes.vocab_size
        wide = sizes.num_attention_heads * sizes.head
        narrow = (sizes.num_key_value_heads or sizes.num_attention_heads) * sizes.head
        block: dict[str, tuple[int, ...]] = {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
        block |= {"self_attn.q_proj": (wide, width), "self_attn.o_proj": (width, wide)}
        block |= dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (narrow, width))
        block |= dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (middle, width)) | {"mlp.down_proj": (width, middle)}
        if self.head_norms:
            block |= dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), (sizes.head,))
        block = {f"{name}.weight": shape for name, shape in block.items()}
        if self.query_bias:
            block |= {"self_attn.q_proj.bias": (wide,)}
            block |= dict.fromkeys(("self_attn.k_proj.bias", "self_attn.v_proj.bias"), (narrow,))
        layers = range(sizes.num_hidden_layers)
        found = {f"model.layers.{n}.{name}": shape for n in layers for name, shape in block.items()}
        outside = {"model.embed_tokens": (rows, width), "model.norm": (width,), "lm_head": (rows, width)}
        return found | {f"{name}.weight": shape for name, shape in outside.items()}

    def linear_layers(self, sizes: Sizes) -> list[str]:
        """The names of the linear layers of the blocks, which adapters may be put on."""
        names = (name.removesuffix(".weight") for name, shape in self.shapes(sizes).items() if len(shape) == 2)
        return [name for name in names if name.startswith("model.layers.")]

    def check_blocks(self, config: Mapping[str, Any], wanted: int | None) -> None:
        """PipelineError if `model.block_length` is not that of config.json, or the family has no blocks."""
        if wanted and not self.block_length:
            raise PipelineError(f"model.block_length {wanted}: in {self.name} every position sees every other")
        if wanted and (config.get("block_size") or wanted) != wanted:
            raise PipelineError(f"model.block_length {wanted}: config.json says block_size {config['block_size']}")


def family_of(name: str) -> Family | None:
    """The family of `model.name`; None for other models and a user's own."""
    if name not in FAMILIES:
        return None
    family: Family = importlib.import_module(f"pipeline.models.{name}").FAMILY
    return family


def plugin_of(family: Family) -> Callable[[str], "Model"]:
    """`__getattr__` of a family's module: `PLUGIN` is made when it is asked for, since the Snakefile, which knows the
    families, must not import PyTorch."""

    def attribute(name: str) -> "Model":
        if name != "PLUGIN":
            raise AttributeError(f"module 'pipeline.models.{family.name}' has no attribute '{name}'")
        from pipeline.models.transformer import plugin  # noqa: PLC0415

        return plugin(family)

    return attribute
