"""LLaDA (arXiv 2502.09992): a Llama without the causal mask that predicts masked tokens.

The small embedded model and LLaDA-8B are the same network; only their configurations differ. A checkpoint has the Hub's
layout, with names of its own for the keys of config.json and for the tensors, or a Llama's.
"""

from typing import Any

from pipeline.models.family import Family, Sizes, plugin_of

EPSILON = 1e-5
"""`rms_norm_eps` of the Hub's architecture where config.json does not name it; a Llama's is 1e-6."""

KEYS = {
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
OFF: dict[str, object] = {
    **dict.fromkeys(("bias_for_layer_norm", "attention_layer_norm", "alibi", "include_bias"), False),
    **dict.fromkeys(("include_qkv_bias", "input_emb_norm", "scale_logits"), False),
    **dict.fromkeys(("embedding_dropout", "residual_dropout"), 0.0),
}
"""Options of the Hub's architecture: the one value that this model implements, and those that must be off."""
NEVER = ("clip_qkv", "rope_scaling", "yarn", "quantization_config")
"""What a config.json of the Hub may say besides; it must be false, 0 or null."""

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


def to_llama(original: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a Llama's configuration for a config.json in the Hub's layout or a Llama's.

    Raises:
        ValueError: for what this model does not implement.
        KeyError: for an entry that is missing.
    """
    if "d_model" not in original:
        return {**original, "pad_token_id": None}
    for key in ("d_model", "n_layers", "n_heads", "vocab_size"):
        if original.get(key) is None:
            raise KeyError(key)
    for key, wanted in {**SUPPORTED, **dict.fromkeys((*OFF, *NEVER), False)}.items():
        if original.get(key, wanted) != wanted and (original[key] or wanted):
            raise ValueError(f"config.json says {key}: {original[key]!r}, this model supports only {wanted!r}")
    if original.get("mask_token_id") is None:
        raise ValueError("config.json names no mask_token_id")
    found = {ours: original[theirs] for theirs, ours in KEYS.items() if original.get(theirs) is not None}
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


def from_llama(config: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `to_llama`. All options are named, since LLaDA's published code has other defaults."""
    found = {theirs: config.get(ours) for theirs, ours in KEYS.items()}
    shared = {key: config[key] for key in ("model_type", "vocab_size", "rope_theta", "torch_dtype", "pad_token_id")}
    made = {"architectures": ["LLaDAModelLM"], "embedding_size": config["vocab_size"], "use_cache": False}
    return {**made, **SUPPORTED, **OFF, **shared, **found}


FAMILY = Family(
    name="llada",
    kind="llada",
    architecture="LladaForMaskedLM",
    body="Llama",
    published=Sizes(vocab_size=126464, intermediate_size=12288, max_position_embeddings=4096, mask_token_id=126336),
    off=("attention_bias", "mlp_bias", "rope_scaling", "yarn", "quantization_config"),
    left_out=("auto_map", "dtype"),
    convert=to_llama,
    export=from_llama,
    keys=KEYS,
    tensors=TENSORS,
)
__getattr__ = plugin_of(FAMILY)
