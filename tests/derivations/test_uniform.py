"""Uniform-noise CTMCs against exact enumeration: rates, values and the optimum."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from tests.derivations.uniform import chain_law, generator, noised, optimal_rate, posterior, value
from tests.derivations.uniform_base import BASE, COST, LENGTH, MOVES, OPTIMUM, TOKENS, UNIFORM, VALUES, clock, rates


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return (p * (p / q).log()).sum().item()


def propagators(rate: torch.Tensor, step: float) -> torch.Tensor:
    """e^{hQ_s} for each step: the CTMC itself, to second order in the step."""
    return torch.stack([torch.linalg.matrix_exp(step * generator(now, MOVES)) for now in rate])


def backward(rate: torch.Tensor, step: float) -> torch.Tensor:
    """e^{-V} before each step and at the end, [S+1, X], by propagating e^{-g} backwards under any base."""
    desirability = [(-COST).exp()]
    for propagator in propagators(rate, step).flip(0):
        desirability.append(propagator @ desirability[-1])
    return torch.stack(desirability[::-1])


def rate_of_change(function, kappa: torch.Tensor) -> torch.Tensor:
    """d/d(log κ) by central differences."""
    width = 1e-5
    return (function(kappa * math.exp(width)) - function(kappa * math.exp(-width))) / (2 * width)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_base_marginals_satisfy_kolmogorovs_forward_equation(eta):
    """d p_κ/d log κ = Qᵀ p_κ, for every η."""
    kappa = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64)
    change = rate_of_change(lambda k: noised(BASE, k, LENGTH), kappa)
    for now, law, wanted in zip(rates(BASE, kappa, eta), noised(BASE, kappa, LENGTH), change, strict=True):
        assert ((generator(now, MOVES).T @ law) - wanted).abs().max() < 1e-9
        assert now.min() >= 0


def test_posterior_is_bayes_rule():
    """p(X_1^i = v | x) from the enumerated joint Π_i [(1-κ)/M + κ 1(x^i = z^i)] p_1(z)."""
    kappa = 0.35
    same = (TOKENS[:, None] == TOKENS[None]).double()
    joint = ((1 - kappa) / VALUES + kappa * same).prod(dim=2) * BASE
    exact = torch.einsum("xz,zlv->xlv", joint / joint.sum(1, keepdim=True), one_hot(TOKENS, VALUES).double())
    got = posterior(BASE, torch.tensor([kappa], dtype=torch.float64), LENGTH)[0]
    torch.testing.assert_close(got, exact)


def test_rate_in_terms_of_the_posterior_is_the_ratio_of_marginals():
    """(4) = (3): u_κ(y, x) = p_κ(y) / (M p_κ(x)) for η = 1."""
    kappa = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64)
    law = noised(BASE, kappa, LENGTH)
    exact = (law[:, MOVES] / law[:, :, None, None] / VALUES).masked_fill(one_hot(TOKENS, VALUES).bool(), 0.0)
    torch.testing.assert_close(rates(BASE, kappa), exact)


def test_value_satisfies_the_backward_equation_of_the_memoryless_base_only():
    """∂ e^{-V}/∂ log κ + Q e^{-V} = 0 for η = 1; with η < 1 the base's X_1 given X_κ is not the noising's."""
    kappa = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
    change = rate_of_change(lambda k: (-value(BASE, COST, k, LENGTH)).exp(), kappa)
    desirability = (-value(BASE, COST, kappa, LENGTH)).exp()
    residual = {}
    for eta in (0.0, 1.0):
        drift = [generator(u, MOVES) @ d for u, d in zip(rates(BASE, kappa, eta), desirability, strict=True)]
        residual[eta] = ((torch.stack(drift) + change).abs().amax(1) / change.abs().amax(1)).tolist()
    assert max(residual[1.0]) < 1e-8
    assert min(residual[0.0]) > 0.05


def test_optimal_rate_reverses_the_noising_of_the_optimum():
    """u e^{-V(y)+V(x)} is (4) with p* in place of p_1: the optimum keeps the structure of the base."""
    kappa, _ = clock(1e-3, 20)
    optimal = optimal_rate(rates(BASE, kappa), value(BASE, COST, kappa, LENGTH), MOVES)
    torch.testing.assert_close(optimal, rates(OPTIMUM, kappa))


def test_optimal_rate_generates_the_optimum():
    """The forward equation of u* ends in p*; in the base's rates it ends in p_1."""
    start = 1e-2
    kappa, step = clock(start, 800)
    optimal = optimal_rate(rates(BASE, kappa), value(BASE, COST, kappa, LENGTH), MOVES)
    first = noised(OPTIMUM, torch.tensor([start], dtype=torch.float64), LENGTH)[0]
    law = first
    for propagator in propagators(optimal, step):
        law = law @ propagator
    assert kl(OPTIMUM, law) < 1e-5
    assert kl(OPTIMUM, BASE) > 0.5


def test_memory_of_the_start_fades_as_the_power_eta():
    """The spread of V_κ over x is ∝ κ^η as κ → 0: X_0 ⟂ X_1 for η > 0, and not for η = 0."""
    start, steps = 1e-4, 800
    kappa, step = clock(start, steps)
    for eta in (0.0, 0.5, 1.0):
        spread = backward(rates(BASE, kappa, eta), step).log().std(dim=1)
        slope = math.log(spread[steps // 4] / spread[0]) / math.log(start ** (-1 / 4))
        assert abs(slope - eta) < 0.05, (eta, slope)


def test_initial_value_bias():
    """u* from p*(X_0) ∝ p(X_0) e^{-V_0} ends in p*; from p(X_0) it is off by KL(p*_0||p_0) unless memoryless."""
    start = 1e-4
    kappa, step = clock(start, 800)
    ends = {}
    for eta in (0.0, 1.0):
        base = rates(BASE, kappa, eta)
        desirability = backward(base, step)
        tilted = UNIFORM * desirability[0] / (UNIFORM @ desirability[0])
        laws = torch.stack([tilted, UNIFORM])
        # e^{hQ*} with h = e^{-V} before and after the step: exact for the propagated base.
        for propagator, before, after in zip(propagators(base, step), desirability[:-1], desirability[1:], strict=True):
            laws = laws @ (propagator * after / before[:, None])
        assert kl(OPTIMUM, laws[0]) < 1e-5
        ends[eta] = kl(OPTIMUM, laws[1])
        assert ends[eta] <= kl(tilted, UNIFORM) + 1e-6
        print(f"η = {eta:g}: KL(p* ‖ end of u*) = {ends[eta]:.1e} from noise, {kl(OPTIMUM, laws[0]):.1e} from (9)")
    assert ends[0.0] > 5e-3, ends
    assert ends[1.0] < 1e-6, ends


def test_chain_of_the_optimal_rate_reaches_the_optimum_as_the_step_falls():
    """KL(p*||chain of u*) falls fourfold or more as h halves, the floor of a policy with these steps."""
    floors = []
    for steps in (64, 128, 256):
        kappa, step = clock(1e-3, steps)
        optimal = optimal_rate(rates(BASE, kappa), value(BASE, COST, kappa, LENGTH), MOVES)
        floors.append(kl(OPTIMUM, chain_law(UNIFORM, optimal, step, MOVES)))
    assert floors[0] > 3.5 * floors[1] > 3.5**2 * floors[2], floors
    assert floors[2] < 1e-3
