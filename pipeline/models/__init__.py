"""Models: each is one module with a `PLUGIN`, chosen by `model.name`."""

NAMES = ("llada", "masked_lm", "mlp", "tabular")
WITHOUT_ADAPTERS = ("mlp", "tabular")
"""Those whose plug-ins have neither adapters nor gradient checkpointing."""
