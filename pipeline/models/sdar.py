"""SDAR (arXiv 2510.06303): a Qwen3 that sees its input block by block, each block and all before it.

A block is denoised as in LLaDA, the blocks follow each other as in an autoregressive model. Tokens are predicted at
their own position.
"""

from typing import Any

from pipeline.models.family import Family, Sizes, plugin_of


def with_options(config: dict[str, Any]) -> dict[str, Any]:
    """The published code reads this option of its training also where nothing trains."""
    return {**config, "fuse_cross_entropy": False}


FAMILY = Family(
    name="sdar",
    kind="sdar",
    architecture="SDARForCausalLM",
    body="Qwen3",
    published=Sizes(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=32768,
        mask_token_id=151669,
    ),
    block_length=4,
    head_norms=True,
    defaults={"mask_token_id": 151669, "head_dim": 128},
    required=("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    export=with_options,
    off=("attention_bias", "rope_scaling", "use_sliding_window", "quantization_config"),
)
__getattr__ = plugin_of(FAMILY)
