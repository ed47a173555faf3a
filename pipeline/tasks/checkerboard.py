"""A 7×7 checkerboard on {0..90}²: picture(a, b) ∝ 1 if ⌊a/13⌋ + ⌊b/13⌋ is even, else 1/50.

The base and the reward are those of `pipeline.tasks.pictures`; at α = 1 the optimum is this picture.
"""

import numpy as np

from pipeline.tasks.pictures import SIZE, picture_task

SQUARE = 13
FLOOR = 1 / 50


def picture() -> np.ndarray:
    square = np.arange(SIZE) // SQUARE
    return np.where((square[:, None] + square) % 2 == 0, 1.0, FLOOR)


PLUGIN = picture_task(picture())
