"""Dynkin → Itô: the discrete adjoint becomes Adjoint Matching's additive correction, against the closed form."""

import pytest
import torch

from tests.derivations.diffusion import (
    Mixture,
    bridge_adjoint,
    drift,
    lattice_rate,
    lean_adjoint,
    noised,
    tilted,
    value,
    variance_rate,
)

LINEAR, QUADRATIC = 1.5, 0.8
BASE = Mixture(*torch.tensor([[0.5, 0.3, 0.2], [-1.5, 0.3, 1.8], [0.1, 0.3, 0.05]], dtype=torch.float64))
TARGET = tilted(BASE, LINEAR, QUADRATIC)
X = torch.linspace(-2, 2, 9, dtype=torch.float64)
NOW = 0.4


def value_slope(x: torch.Tensor, t: float) -> torch.Tensor:
    """∂_x V_t(x) from the closed form of V."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(value(BASE, TARGET, x, t).sum(), x)[0]


def test_tilted_mixture_is_the_base_times_the_reward():
    wanted = BASE.log_density(X) + LINEAR * X - QUADRATIC * X.square() / 2
    torch.testing.assert_close(TARGET.log_density(X), wanted)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_value_satisfies_the_backward_equation(t):
    """∂_t h + b ∂_x h + σ²/2 ∂_x² h = 0 for h = e^{-V}."""
    x, time = X.clone().requires_grad_(), torch.tensor(t, dtype=torch.float64, requires_grad=True)
    h = (-value(BASE, TARGET, x, time)).exp()
    (first,) = torch.autograd.grad(h.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, retain_graph=True)
    change = torch.stack([torch.autograd.grad(one, time, retain_graph=True)[0] for one in h])
    residual = change + drift(BASE, X, t) * first + variance_rate(t) / 2 * second
    assert residual.abs().max() < 1e-10 * change.abs().max()


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_additive_correction_gives_the_drift_of_the_optimum(t):
    """b - σ² ∂_x V is the drift that reverses the noising of p*."""
    torch.testing.assert_close(drift(BASE, X, t) - variance_rate(t) * value_slope(X, t), drift(TARGET, X, t))


def test_multiplicative_adjoint_on_the_lattice_becomes_additive():
    """Σ_y u e^{-V(y)+V(x)} (y-x) → b - σ² ∂_x V and Σ_y u e^{-V(y)+V(x)} (y-x)² → σ², both with error O(δ²)."""
    wanted = drift(BASE, X, NOW) - variance_rate(NOW) * value_slope(X, NOW)
    errors = []
    for spacing in (0.04, 0.02, 0.01):
        rates = lattice_rate(drift(BASE, X, NOW), variance_rate(NOW), spacing)
        moves = (spacing, -spacing)
        here = value(BASE, TARGET, X, NOW)
        optimal = [u * (here - value(BASE, TARGET, X + m, NOW)).exp() for u, m in zip(rates, moves, strict=True)]
        assert min(rate.min() for rate in optimal) > 0
        mean = sum(u * m for u, m in zip(optimal, moves, strict=True))
        square = sum(u * m**2 for u, m in zip(optimal, moves, strict=True))
        errors.append(torch.stack([(mean - wanted).abs().max(), (square - variance_rate(NOW)).abs().max()]))
    slopes = (errors[0] / errors[2]).log2() / 2
    assert (slopes - 2).abs().max() < 0.1, slopes


def test_bridge_adjoint_averages_to_the_value_gradient():
    """E[∂_y log p(X_1|y)] over X_1 ~ p*(·|x) is -∂_x V within 5 standard errors; g is not differentiated."""
    random = torch.Generator().manual_seed(0)
    for x, wanted in zip(X, -value_slope(X, NOW), strict=True):
        # X_1 | X_t = x under p*: Bayes' rule for each Gaussian component.
        spread = noised(TARGET, NOW)
        component = spread.log_terms(x[None]).softmax(-1).expand(40_000, -1).multinomial(1, generator=random)[:, 0]
        gain = NOW * TARGET.variance / spread.variance
        mean = (TARGET.mean + gain * (x - spread.mean))[component]
        scale = (TARGET.variance * (1 - NOW) ** 2 / spread.variance).sqrt()[component]
        x_1 = mean + scale * torch.randn(mean.shape, dtype=torch.float64, generator=random)
        drawn = bridge_adjoint(BASE, x.expand_as(x_1), x_1, NOW)
        assert (drawn.mean() - wanted).abs() < 5 * drawn.std() / len(drawn) ** 0.5


def test_lean_adjoint_averages_to_the_value_gradient():
    """E[a_t | X_t = x] over paths of p* is ∂_x V: the derivative of the discrete adjoint with the noise held fixed."""
    random, steps, paths = torch.Generator().manual_seed(0), 400, 2000
    times = torch.linspace(NOW, 1, steps + 1, dtype=torch.float64)
    path = [X[::4].repeat_interleave(paths)]
    for t, after in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        noise = torch.randn(path[-1].shape, dtype=torch.float64, generator=random)
        scale = (variance_rate(t) * (after - t)) ** 0.5
        path.append(path[-1] + (after - t) * drift(TARGET, path[-1], t) + scale * noise)
    drawn = lean_adjoint(torch.stack(path[:-1]), times, BASE, QUADRATIC * path[-1] - LINEAR).view(-1, paths)
    error, wanted = drawn.std(dim=1) / paths**0.5, value_slope(X[::4], NOW)
    assert ((drawn.mean(dim=1) - wanted).abs() < 5 * error).all()
    assert error.max() < 0.05 * wanted.abs().max()
