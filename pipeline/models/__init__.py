NAMES = ("llada",)
