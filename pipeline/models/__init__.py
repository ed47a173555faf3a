"""Models: each is one module with a `PLUGIN`, chosen by `model.name`."""

NAMES = ("llada", "mlp", "tabular")
