NAMES = ("dam",)
