NAMES = ("llada", "mlp", "tabular")
