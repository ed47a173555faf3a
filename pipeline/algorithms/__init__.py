from pipeline.algorithms.settings import SETTINGS

NAMES = tuple(SETTINGS)
