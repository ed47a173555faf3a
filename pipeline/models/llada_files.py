"""What the files of a LLaDA say, in the Hub's layout or a Llama's: checked before any weight is read, without PyTorch.

Code that comes with a checkpoint is never run. Options that this model does not implement are refused.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import PipelineError
from pipeline.settings.validation import describe
from pipeline.storage.model_files import ADAPTER_CONFIG, base_of_adapters, read_config, tensor_headers

KIND = "llada"
EPSILON = 1e-5
"""`rms_norm_eps` of the Hub's architecture where config.json does not name it; a Llama's is 1e-6."""

NAMES = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "weight_tying": "tie_word_embeddings",
    "init_std": "initializer_range",
    **{name: name for name in ("rms_norm_eps", "attention_dropout", "mask_token_id", "eos_token_id", "bos_token_id")},
}
"""Hub key -> Llama key; pad_token_id is left out."""

SUPPORTED: dict[str, object] = {
    "block_type": "llama",
    "block_group_size": 1,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "activation_type": "silu",
    "rope": True,
}
OFF = (
    *("bias_for_layer_norm", "attention_layer_norm", "alibi", "include_bias", "include_qkv_bias", "input_emb_norm"),
    *("scale_logits", "clip_qkv", "embedding_dropout", "residual_dropout", "rope_scaling", "yarn"),
    *("quantization_config",),
)
"""Options of the Hub's architecture: the one value that this model implements, and what must be false, 0 or null."""
LLAMA_OFF = ("attention_bias", "mlp_bias", "rope_scaling", "yarn", "quantization_config")
"""The same of a Llama's, whose activation must be silu."""
DTYPES = (None, "float32", "bfloat16", "float16", "float64")

BLOCK = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
OUTSIDE = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
TENSORS = {
    rf"^model\.transformer\.{theirs}\.": f"{ours}."
    for theirs, ours in {
        **OUTSIDE,
        **{rf"blocks\.(\d+)\.{theirs}": rf"model.layers.\1.{ours}" for theirs, ours in BLOCK.items()},
    }.items()
}
"""Pattern of the Hub's names of tensors -> a Llama's."""

Size = Annotated[int, Field(ge=1, le=10**7)]
Token = Annotated[int, Field(ge=0)]


class Sizes(BaseModel):
    """The entries of config.json that the model is made of, under a Llama's keys and with a Llama's defaults."""

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

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model by a Llama's names."""
        width, middle, rows = self.hidden_size, self.intermediate_size, self.vocab_size
        wide = self.num_attention_heads * self.head
        narrow = (self.num_key_value_heads or self.num_attention_heads) * self.head
        block: dict[str, tuple[int, ...]] = {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
        block |= {"self_attn.q_proj": (wide, width), "self_attn.o_proj": (width, wide)}
        block |= dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (narrow, width))
        block |= dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (middle, width)) | {"mlp.down_proj": (width, middle)}
        layers = range(self.num_hidden_layers)
        found = {f"model.layers.{n}.{name}": shape for n in layers for name, shape in block.items()}
        found |= {"model.embed_tokens": (rows, width), "model.norm": (width,), "lm_head": (rows, width)}
        return {f"{name}.weight": shape for name, shape in found.items()}

    def linear_layers(self) -> list[str]:
        """The names of the linear layers of the blocks, which adapters may be put on."""
        names = (name.removesuffix(".weight") for name, shape in self.shapes().items() if len(shape) == 2)
        return [name for name in names if name.startswith("model.layers.")]


def to_llama(original: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `LladaConfig` for the Hub's config.json. ValueError for what this model does not implement."""
    for key, wanted in {**SUPPORTED, **dict.fromkeys(OFF, False)}.items():
        if original.get(key, wanted) != wanted and (original[key] or wanted):
            raise ValueError(f"config.json says {key}: {original[key]!r}, this model supports only {wanted!r}")
    if original.get("mask_token_id") is None:
        raise ValueError("config.json names no mask_token_id")
    found = {ours: original[theirs] for theirs, ours in NAMES.items() if original.get(theirs) is not None}
    found.setdefault("rms_norm_eps", EPSILON)
    if "intermediate_size" not in found:
        found["intermediate_size"] = int(original.get("mlp_ratio", 4) * original["d_model"])
    if original.get("multi_query_attention"):
        found["num_key_value_heads"] = 1
    return {
        **found,
        "vocab_size": original.get("embedding_size") or original["vocab_size"],
        "rope_parameters": {"rope_type": "default", "rope_theta": float(original.get("rope_theta", 10000.0))},
        "dtype": original.get("dtype") or original.get("torch_dtype"),
        "original": original,
    }


def read_sizes(path: Path) -> Sizes:
    """The checked config.json of a saved LLaDA; of adapters, that of their base.

    Raises:
        PipelineError: for a missing file, another architecture, an unsupported option or an impossible value.
    """
    if (path / ADAPTER_CONFIG).is_file():
        return read_sizes(base_of_adapters(path))
    config = read_config(path, KIND)
    try:
        return _sizes(config)
    except ValidationError as error:
        problem = describe(error, Sizes).removeprefix(": ")
        hub = {ours: theirs for theirs, ours in NAMES.items()} if "d_model" in config else {}
        key, colon, rest = problem.partition(":")
        raise PipelineError(f"'{path}': config.json: {hub.get(key, key)}{colon}{rest}") from error
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        missing = f"config.json names no {error}" if isinstance(error, KeyError) else str(error)
        raise PipelineError(f"'{path}': {missing[:300]}") from error


def _sizes(config: dict[str, Any]) -> Sizes:
    if "d_model" in config:
        for key in ("d_model", "n_layers", "n_heads", "vocab_size"):
            if config.get(key) is None:
                raise KeyError(key)
        llama = to_llama(config)
    else:
        llama = {key: value for key, value in config.items() if value is not None}
        for key in ("hidden_act", *LLAMA_OFF):
            if config.get(key) and config[key] != "silu":
                raise ValueError(f"config.json says {key}: {config[key]!r}, which this model does not support")
    rope = llama.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise ValueError(f"config.json says rope_parameters: {rope!r}, this model supports only the default")
    theta = rope.get("rope_theta", llama.get("rope_theta", 10000.0))
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 < theta < 1e15:
        raise ValueError(f"config.json says rope_theta: {theta!r}, not a positive number")
    kind = llama.get("dtype") or llama.get("torch_dtype")
    if kind not in DTYPES:
        raise ValueError(f"config.json says dtype: {kind!r}, not one of {', '.join(filter(None, DTYPES))}")
    return Sizes.model_validate(llama)


def check_tensors(path: Path) -> None:
    """PipelineError unless the weights are floats and those that config.json describes; reads their headers only."""
    sizes = read_sizes(path)
    if (path / ADAPTER_CONFIG).is_file():
        check_tensors(base_of_adapters(path))
        return
    wanted = sizes.shapes()
    found = {_llama_name(name): (name, header.shape) for name, header in tensor_headers(path).items()}
    optional = {"lm_head.weight"} if sizes.tie_word_embeddings else set()
    problems = {
        "missing": sorted(wanted.keys() - found.keys() - optional),
        "unexpected": sorted(found[name][0] for name in found.keys() - wanted.keys()),
        "mismatched": [
            f"{found[name][0]} {list(found[name][1])}, not {list(shape)}"
            for name, shape in wanted.items()
            if name in found and found[name][1] != shape
        ],
    }
    for problem, names in problems.items():
        if names:
            raise PipelineError(f"'{path}': {problem} keys: {', '.join(names[:3])}")


def _llama_name(name: str) -> str:
    for pattern, ours in TENSORS.items():
        renamed, count = re.subn(pattern, ours, name)
        if count:
            return renamed
    return name
