"""A pinwheel on {0..90}²: picture(ρ, θ) ∝ 1/50 + e^{5 (cos(5θ + 6ρ) - 1)} e^{-((ρ - 0.6)/0.25)²/2}, five curved arms.

ρ and θ are polar coordinates about the centre, ρ = 1 at the middle of an edge. The base and the reward are those
of `pipeline.tasks.pictures`; at α = 1 the optimum is this picture.
"""

import numpy as np

from pipeline.tasks.pictures import coordinates, picture_task

ARMS, TWIST, SHARPNESS = 5, 6.0, 5.0
RADIUS, WIDTH = 0.6, 0.25
FLOOR = 1 / 50


def picture() -> np.ndarray:
    u, v = coordinates()
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    arms: np.ndarray = np.exp(SHARPNESS * (np.cos(ARMS * angle + TWIST * radius) - 1))
    ring: np.ndarray = np.exp(-(((radius - RADIUS) / WIDTH) ** 2) / 2)
    density: np.ndarray = FLOOR + arms * ring
    return density


PLUGIN = picture_task(picture())
