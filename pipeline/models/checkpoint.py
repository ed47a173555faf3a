"""LLaDA's layout on the Hub, translated to a Llama's: the keys of config.json and the names of the tensors.

Code that comes with a checkpoint is never run. Options that this model does not implement are refused.
"""

from typing import Any

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming
from transformers.models.llama.configuration_llama import LlamaConfig

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
"""Hub key -> Llama key. pad_token_id is left out: an embedding with a padding index gets no gradient there."""

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
    *("scale_logits", "clip_qkv", "embedding_dropout", "residual_dropout"),
)
"""Options of the Hub's architecture: the one value that this model implements, and what must be false, 0 or null."""

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


class LladaConfig(LlamaConfig):
    """A `LlamaConfig` with bidirectional attention and the id of [MASK].

    `original` is the config.json of a checkpoint in the Hub's layout; a model opened from one is saved with it.
    """

    model_type = "llada"
    is_causal: bool = False
    use_cache: bool = False
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    original: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From the Hub's layout or a Llama's.

        Raises:
            ValueError: for an option of the Hub's architecture that this model does not implement.
        """
        return super().from_dict(to_llama(config_dict) if "d_model" in config_dict else config_dict, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """The contents of config.json, without references to code and with the current type of the weights."""
        if self.original is None:
            return super().to_diff_dict()
        kept = {key: value for key, value in self.original.items() if key not in ("auto_map", "dtype")}
        return {**kept, "torch_dtype": str(self.dtype).removeprefix("torch.")}


def to_llama(original: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `LladaConfig` for the Hub's config.json."""
    for key, wanted in {**SUPPORTED, **dict.fromkeys(OFF, False)}.items():
        if original.get(key, wanted) != wanted and (original[key] or wanted):
            raise ValueError(f"config.json says {key}: {original[key]!r}, this model supports only {wanted!r}")
    if original.get("mask_token_id") is None:
        raise ValueError("config.json names no mask_token_id")
    found = {ours: original[theirs] for theirs, ours in NAMES.items() if original.get(theirs) is not None}
    found.setdefault("intermediate_size", int(original.get("mlp_ratio", 4) * original["d_model"]))
    if original.get("multi_query_attention"):
        found["num_key_value_heads"] = 1
    return {
        **found,
        "vocab_size": original.get("embedding_size") or original["vocab_size"],
        "rope_parameters": {"rope_type": "default", "rope_theta": float(original.get("rope_theta", 10000.0))},
        "dtype": original.get("dtype") or original.get("torch_dtype"),
        "original": original,
    }


TENSORS = OUTSIDE | {rf"blocks\.(\d+)\.{theirs}": rf"model.layers.\1.{ours}" for theirs, ours in BLOCK.items()}
RENAMED: list[WeightConverter | WeightRenaming] = [
    WeightRenaming(rf"^model\.transformer\.{theirs}\.", f"{ours}.") for theirs, ours in TENSORS.items()
]
register_checkpoint_conversion_mapping(LladaConfig.model_type, RENAMED, overwrite=True)
