"""Models: each is one module with a `PLUGIN`, chosen by `model.name`."""

FAMILIES = ("llada", "dream", "sdar")
"""Families of masked-diffusion transformers: modules with a `FAMILY`, of which `transformer` makes the plug-in."""
NAMES = (*FAMILIES, "masked_lm", "mlp", "tabular")
