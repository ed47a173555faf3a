from pipeline.settings.algorithms import SETTINGS

NAMES = tuple(SETTINGS)
