"""Uniform-noise CTMCs against exact enumeration: 2 tokens out of 4 values, 16 states, a base that hides nothing."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from pipeline.ctmc.uniform import (
    adjoint,
    all_states,
    bridge_rate,
    chain_law,
    generator,
    matching_loss,
    neighbors,
    noised,
    optimal_rate,
    posterior,
    renoise,
    reversal_rate,
    rollout,
    value,
)
from pipeline.ctmc.weights import effective_sample_size, self_normalized

LENGTH, VALUES = 2, 4
STATES = VALUES**LENGTH
TOKENS, MOVES = all_states(LENGTH, VALUES), neighbors(LENGTH, VALUES)
BASE = torch.randn(STATES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(0)
COST = 2 * (TOKENS[:, 0] - TOKENS[:, 1]).abs().double() - 1.5 * (TOKENS[:, 0] == 3)
OPTIMUM = (BASE.log() - COST).softmax(0)
UNIFORM = torch.full_like(BASE, 1 / STATES)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return (p * (p / q).log()).sum().item()


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
    assert ends[0.0] > 5e-3, ends
    assert ends[1.0] < 1e-6, ends


def test_both_adjoints_average_to_the_value_ratio():
    """E[ã(y; X_1)] = E[p(X_1|y)/p(X_1|x)] = e^{-V(y)+V(x)} over X_1 ~ p*(·|x), within 5 standard errors."""
    random, count, x = torch.Generator().manual_seed(0), 200_000, 6
    for level in (0.2, 0.7):
        kappa = torch.tensor([level], dtype=torch.float64)
        values = value(BASE, COST, kappa, LENGTH)[0]
        exact = (values[x] - values[MOVES[x]]).exp()
        kernel = ((1 - level) / VALUES + level * (TOKENS[x] == TOKENS).double()).prod(dim=1)
        x_1 = torch.multinomial(OPTIMUM * kernel, count, replacement=True, generator=random)
        moves, here = MOVES[x].expand(count, LENGTH, VALUES), TOKENS[x].expand(count, LENGTH)
        first = adjoint(values, moves, COST[x_1])
        bridge = bridge_rate(TOKENS[x_1], here, kappa.expand(count), VALUES) / rates(BASE, kappa)[0, x]
        allowed = MOVES[x] != x
        for drawn in (first[:, allowed], bridge[:, allowed]):
            error = drawn.std(dim=0) / count**0.5
            assert ((drawn.mean(dim=0) - exact[allowed]).abs() < 5 * error).all()
            assert (error < 0.05 * exact[allowed]).all()


def wrong_policy(kappa: torch.Tensor) -> torch.Tensor:
    """A policy that is neither the base nor the optimum."""
    return rates((0.5 * (BASE.log() + OPTIMUM.log())).softmax(0).roll(1) + 0.02, kappa)


def test_path_ratio_corrects_any_policy():
    """E_{X ~ p^u}[e^{-g(X_1)} dp^base/dp^u] = Σ_z p^base(z|x) e^{-g(z)}, exactly that of the chain (13)."""
    random, count = torch.Generator().manual_seed(0), 40_000
    kappa, step = clock(0.2, 24)
    base, policy = rates(BASE, kappa), wrong_policy(kappa)
    estimates = {}
    for x in (0, 6):
        end, log_ratio = rollout(torch.full((count,), x), base, policy, step, MOVES, random)
        drawn = (log_ratio - COST[end]).exp()
        law = chain_law(one_hot(torch.tensor(x), STATES).double(), base, step, MOVES)
        error = drawn.std() / count**0.5
        assert (drawn.mean() - law @ (-COST).exp()).abs() < 5 * error
        assert error < 0.05 * drawn.mean()
        sampled = torch.bincount(end, minlength=STATES) / count
        exact = chain_law(one_hot(torch.tensor(x), STATES).double(), policy, step, MOVES)
        assert ((sampled - exact).abs() < 5 * (exact / count).sqrt()).all()
        estimates[x] = drawn.mean()
    # The ratio of the two is the importance-weighted adjoint (11) for y = 6, x = 0, a jump of one token and more.
    values = value(BASE, COST, torch.tensor([0.2], dtype=torch.float64), LENGTH)[0]
    assert (estimates[6] / estimates[0]).log() == pytest.approx((values[0] - values[6]).item(), abs=0.1)


def test_log_weights_of_the_optimal_policy_are_constant_up_to_the_step():
    """At u*, ESS/K → 1 as h → 0; at the base it stays far below 1, whatever the step."""
    random, count = torch.Generator().manual_seed(0), 8000
    lost = []
    for steps in (32, 128):
        kappa, step = clock(1e-2, steps)
        base, start = rates(BASE, kappa), torch.randint(STATES, (count,), generator=random)
        optimal = optimal_rate(base, value(BASE, COST, kappa, LENGTH), MOVES)
        end, log_ratio = rollout(start, base, optimal, step, MOVES, random)
        lost.append(1 - effective_sample_size(self_normalized((log_ratio - COST[end])[None])).item() / count)
    assert lost[1] < 0.1, lost
    assert lost[1] < lost[0] / 2, lost
    end, _ = rollout(start, base, base, step, MOVES, random)
    assert effective_sample_size(self_normalized(-COST[end][None])).item() < 0.5 * count


def test_chain_of_the_optimal_rate_reaches_the_optimum_as_the_step_falls():
    """KL(p*||chain of u*) falls fourfold or more as h halves, the floor of a policy with these steps."""
    floors = []
    for steps in (64, 128, 256):
        kappa, step = clock(1e-3, steps)
        optimal = optimal_rate(rates(BASE, kappa), value(BASE, COST, kappa, LENGTH), MOVES)
        floors.append(kl(OPTIMUM, chain_law(UNIFORM, optimal, step, MOVES)))
    assert floors[0] > 3.5 * floors[1] > 3.5**2 * floors[2], floors
    assert floors[2] < 1e-3


def test_renoise_follows_the_noising():
    count, kappa = 100_000, 0.3
    random = torch.Generator().manual_seed(0)
    drawn = renoise(TOKENS[9].expand(count, LENGTH), torch.full((count,), kappa), VALUES, random)
    seen = torch.bincount(drawn @ torch.tensor([VALUES, 1]), minlength=STATES) / count
    exact = noised(one_hot(torch.tensor(9), STATES).double(), torch.tensor([kappa], dtype=torch.float64), LENGTH)[0]
    assert ((seen - exact).abs() < 5 * (exact / count).sqrt()).all()
    assert drawn.shape == (count, LENGTH)


def test_sampled_gradient_is_that_of_the_exact_generalised_kl():
    """E ∇ Σ_y [u - w log u] with w = u(y, x|X_1), X_1 ~ p*(·|x), is ∇ Σ_y [u - u* + u* log(u*/u)]; zero at p*."""
    random, count, x, kappa = torch.Generator().manual_seed(0), 100_000, 6, torch.tensor([0.6], dtype=torch.float64)
    optimal, best = rates(OPTIMUM, kappa)[0, x], posterior(OPTIMUM, kappa, LENGTH)[0, x].log()
    allowed = MOVES[x] != x
    for at, stationary in ((torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 4), False), (best, True)):
        logits = at.clone().requires_grad_()
        rate = reversal_rate(logits.softmax(-1)[None], TOKENS[x][None], kappa)
        u, w = rate[0][allowed], optimal[allowed]
        (exact,) = torch.autograd.grad((u - w + w * (w / u).log()).sum(), logits, retain_graph=True)
        assert (exact.abs().max() < 1e-12) == stationary
        kernel = (0.4 / VALUES + 0.6 * (TOKENS[x] == TOKENS).double()).prod(dim=1)
        x_1 = torch.multinomial(OPTIMUM * kernel, count, replacement=True, generator=random)
        # The gradient is linear in the target: one autograd pass per distinct X_1, averaged over the draws.
        target = bridge_rate(TOKENS, TOKENS[x].expand(STATES, LENGTH), kappa.expand(STATES), VALUES)
        single = [torch.autograd.grad(matching_loss(rate, t[None]).sum(), logits, retain_graph=True)[0] for t in target]
        drawn = torch.stack(single)[x_1]
        error = drawn.std(dim=0) / count**0.5
        assert ((drawn.mean(dim=0) - exact).abs() < 5 * error).all()
        assert error.max() < 0.01
