"""The example of the uniform-noise tests: 2 tokens with 4 values, so 16 states, and a random positive base."""

import math

import torch

from tests.derivations.uniform import all_states, neighbors, posterior, reversal_rate

LENGTH, VALUES = 2, 4
STATES = VALUES**LENGTH
TOKENS, MOVES = all_states(LENGTH, VALUES), neighbors(LENGTH, VALUES)
BASE = torch.randn(STATES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(0)
COST = 2 * (TOKENS[:, 0] - TOKENS[:, 1]).abs().double() - 1.5 * (TOKENS[:, 0] == 3)
OPTIMUM = (BASE.log() - COST).softmax(0)
UNIFORM = torch.full_like(BASE, 1 / STATES)


def clock(start: float, steps: int) -> tuple[torch.Tensor, float]:
    """κ at the middle of each of `steps` equal steps of log κ from `start` to 1, and their size."""
    step = -math.log(start) / steps
    return (math.log(start) + step * (torch.arange(steps, dtype=torch.float64) + 0.5)).exp(), step


def rates(mass: torch.Tensor, kappa: torch.Tensor, eta: float = 1.0) -> torch.Tensor:
    """u_κ(y, x) of the CTMC whose X_1 has the law `mass`, [S, X, L, M]."""
    shape = (len(kappa), STATES)
    return reversal_rate(
        posterior(mass, kappa, LENGTH), TOKENS.expand(*shape, LENGTH), kappa[:, None].expand(shape), eta
    )
