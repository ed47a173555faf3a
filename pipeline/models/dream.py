"""Dream and DiffuCoder (arXiv 2508.15487, 2506.20639): a Qwen2 without the causal mask.

They were trained from an autoregressive model, whose output at position i - 1 predicts token i, and kept that.
"""

from pipeline.models.family import Family, Sizes, plugin_of

FAMILY = Family(
    name="dream",
    kind="Dream",
    architecture="DreamModel",
    body="Qwen2",
    published=Sizes(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=131072,
        mask_token_id=151666,
    ),
    shifted=True,
    query_bias=True,
    required=("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    off=("rope_scaling", "use_mrope", "use_sliding_window", "quantization_config"),
)
__getattr__ = plugin_of(FAMILY)
