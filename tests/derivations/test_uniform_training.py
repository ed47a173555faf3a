"""Discrete Adjoint Matching on a uniform-noise CTMC: rollouts, path weights, generalised KL; 2 tokens out of 7."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.ctmc.weights import effective_sample_size, self_normalized
from tests.derivations.uniform import (
    all_states,
    bridge_rate,
    chain_law,
    matching_loss,
    neighbors,
    optimal_rate,
    posterior,
    renoise,
    reversal_rate,
    rollout,
    value,
)

LENGTH, VALUES, START, STEPS, BINS = 2, 7, 1e-2, 64, 4
STATES = VALUES**LENGTH
TOKENS, MOVES = all_states(LENGTH, VALUES), neighbors(LENGTH, VALUES)
STEP = -math.log(START) / STEPS
KAPPA = (math.log(START) + STEP * (torch.arange(STEPS) + 0.5)).exp()
BASE = (0.7 * torch.randn(STATES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).softmax(0)
COST = -2 * torch.cos(2 * math.pi * (TOKENS[:, 0] - TOKENS[:, 1]).double() / (VALUES - 1))
OPTIMUM = (BASE.log() - COST).softmax(0)
BASE_LOGITS = posterior(BASE, KAPPA.double(), LENGTH).log().float()


def kl_to_optimum(law: Tensor) -> float:
    return (OPTIMUM * (OPTIMUM / law).log()).sum().item()


class TabularPolicy:
    """p_θ(v|x, i, κ) ∝ p^base(v|x, i, κ) e^{θ(κ, x, i, v)}, with θ linear in κ between BINS + 1 tables."""

    def __init__(self):
        self.theta = torch.zeros(BINS + 1, STATES, LENGTH, VALUES, requires_grad=True)
        self.before = (KAPPA * BINS).long().clamp(max=BINS - 1)
        self.fraction = KAPPA * BINS - self.before

    def rate(self, step: Tensor, state: Tensor) -> Tensor:
        """u^θ at each pair of a step and a state, [n, L, M]."""
        before, fraction = self.before[step], self.fraction[step, None, None]
        tilt = torch.lerp(self.theta[before, state], self.theta[before + 1, state], fraction)
        return reversal_rate((BASE_LOGITS[step, state] + tilt).softmax(-1), TOKENS[state], KAPPA[step])

    def table(self) -> Tensor:
        """u^θ at every step and state, [S, X, L, M]."""
        with torch.no_grad():
            pairs = torch.cartesian_prod(torch.arange(STEPS), torch.arange(STATES))
            return self.rate(pairs[:, 0], pairs[:, 1]).view(STEPS, STATES, LENGTH, VALUES)

    def law(self) -> Tensor:
        """p^u of the sampled chain, exactly."""
        return chain_law(torch.full_like(BASE, 1 / STATES), self.table().double(), STEP, MOVES)


def train(policy: TabularPolicy, rounds: int, rollouts: int, updates: int, seed: int) -> list[float]:
    """Per round: X_1 ~ p^u with weights, then gKL on X_κ re-noised from all rounds' X_1; returns ESS/K by round."""
    random, base = torch.Generator().manual_seed(seed), TabularPolicy().table()
    optimizer = torch.optim.Adam([policy.theta], lr=0.1)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, rounds * updates)
    ends, masses, sizes = [], [], []
    for _ in range(rounds):
        start = torch.randint(STATES, (rollouts,), generator=random)
        end, log_ratio = rollout(start, base, policy.table(), STEP, MOVES, random)
        # One group for all starts: X_0 is independent of X_1 under p*, so its law is not tilted.
        weight = self_normalized((log_ratio - COST.float()[end])[None])
        sizes.append(effective_sample_size(weight).item())
        ends.append(end)
        masses.append(weight[0] * sizes[-1])
        for _ in range(updates):
            drawn = torch.multinomial(torch.cat(masses), 1024, replacement=True, generator=random)
            x_1, step = TOKENS[torch.cat(ends)[drawn]], torch.randint(STEPS, (1024,), generator=random)
            tokens = renoise(x_1, KAPPA[step], VALUES, random)
            rate = policy.rate(step, tokens @ torch.tensor([VALUES, 1]))
            loss = matching_loss(rate, bridge_rate(x_1, tokens, KAPPA[step], VALUES)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    return [size / rollouts for size in sizes]


@pytest.fixture(scope="module")
def trained() -> tuple[TabularPolicy, list[float]]:
    policy = TabularPolicy()
    return policy, train(policy, rounds=6, rollouts=4096, updates=150, seed=0)


def test_policy_reaches_the_optimum(trained):
    """KL(p*||p^u) ≤ 1e-2 from 0.79 at the base; the chain of u* itself, the floor, is below 2e-3."""
    optimal = optimal_rate(TabularPolicy().table().double(), value(BASE, COST, KAPPA.double(), LENGTH), MOVES)
    floor = kl_to_optimum(chain_law(torch.full_like(BASE, 1 / STATES), optimal, STEP, MOVES))
    assert floor < 2e-3
    assert kl_to_optimum(TabularPolicy().law()) > 0.7
    assert kl_to_optimum(trained[0].law()) < 1e-2


def test_weights_even_out_as_the_policy_improves(trained):
    share = trained[1]
    assert share[0] < 0.5
    assert share[-1] > 0.75
