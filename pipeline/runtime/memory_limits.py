"""What is held in memory at once: kept by the stages, reckoned with by `estimate`. Torch-free."""

CHUNK = 2**26
"""Logits that one piece of the head may hold: 256 MiB in fp32."""

STATES, TOKENS = 1024, 2**16
"""What one forward pass of teacher forcing holds at most."""
