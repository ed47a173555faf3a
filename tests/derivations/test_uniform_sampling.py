"""What is drawn on uniform-noise CTMCs against exact enumeration, within five standard errors."""

import pytest
import torch
from torch.nn.functional import one_hot

from pipeline.ctmc.weights import effective_sample_size, self_normalized
from tests.derivations.uniform import (
    adjoint,
    bridge_rate,
    chain_law,
    matching_loss,
    noised,
    optimal_rate,
    posterior,
    renoise,
    reversal_rate,
    rollout,
    value,
)
from tests.derivations.uniform_base import BASE, COST, LENGTH, MOVES, OPTIMUM, STATES, TOKENS, VALUES, clock, rates


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
