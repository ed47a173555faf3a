"""Memory limits that the stages keep and the estimate uses. Torch-free."""

CHUNK = 2**26
"""Logits that the head computes at once: 256 MiB in fp32."""

STATES, TOKENS = 256, 2**16
"""The most that one forward pass over given states takes."""

LESS_MEMORY = {
    "base": "raise base.gradient_accumulation_steps, or set base.gradient_checkpointing: true",
    "rollout": "lower rollout.batch_size, down to rollout.completions",
    "reference": "set model.dtype: bfloat16",
    "train": "set train.adapter, raise train.gradient_accumulation_steps, or set train.gradient_checkpointing: true",
    "decode": "lower evaluate.batch_size",
    "evaluate": "lower evaluate.batch_size",
}
"""What lowers the memory that a rule needs."""
