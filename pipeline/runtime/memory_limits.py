"""Memory limits that the stages keep and the estimate uses. Torch-free."""

CHUNK = 2**26
"""Logits that the head computes at once: 256 MiB in fp32."""

STATES, TOKENS = 256, 2**16
"""The most that one forward pass over given states takes."""
