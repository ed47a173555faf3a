"""Adjoint Matching in one dimension: the discrete adjoint on a lattice whose spacing goes to 0. See docs/continuous.md.

X_t = t X_1 + (1-t) X_0 with X_0 ~ N(0, 1) and X_1 a Gaussian mixture; e^{-g} is log-quadratic, so V is closed form.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """m(x) = Σ_j w_j N(x; μ_j, s_j²); the weights need not sum to 1."""

    weight: Float[Tensor, "*n J"]
    mean: Float[Tensor, "*n J"]
    variance: Float[Tensor, "*n J"]

    def log_density(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """log m(x)."""
        return self.log_terms(x).logsumexp(dim=-1)

    def score(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """∂_x log m(x)."""
        pull = (self.mean - x[..., None]) / self.variance
        return (self.log_terms(x).softmax(dim=-1) * pull).sum(dim=-1)

    def log_terms(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n J"]:
        """log w_j N(x; μ_j, s_j²)."""
        square = (x[..., None] - self.mean).square() / self.variance
        return self.weight.log() - (square + (2 * torch.pi * self.variance).log()) / 2


def tilted(mixture: Mixture, linear: float, quadratic: float) -> Mixture:
    """m(z) e^{-g(z)} with -g(z) = a z - b z²/2: every p* here is again a mixture, with unnormalised weights."""
    shrink = 1 + quadratic * mixture.variance
    exponent = mixture.mean * linear + (linear**2 * mixture.variance - quadratic * mixture.mean.square()) / 2
    weight = mixture.weight * (exponent / shrink).exp() / shrink.sqrt()
    return Mixture(weight, (mixture.mean + linear * mixture.variance) / shrink, mixture.variance / shrink)


def noised(mixture: Mixture, t: float | Float[Tensor, ""]) -> Mixture:
    """(K_t m)(x) = ∫ N(x; tz, (1-t)²) m(z) dz, the counterpart of `uniform.noised`."""
    return Mixture(mixture.weight, t * mixture.mean, t**2 * mixture.variance + (1 - t) ** 2)


def value(
    mixture: Mixture, tilted: Mixture, x: Float[Tensor, "*n"], t: float | Float[Tensor, ""]
) -> Float[Tensor, "*n"]:
    """V_t(x) = -log E[e^{-g(X_1)} | X_t = x] = log K_t p_1 - log K_t(p_1 e^{-g}), as in `uniform.value`."""
    return noised(mixture, t).log_density(x) - noised(tilted, t).log_density(x)


def variance_rate(t: float) -> float:
    """σ_t² = 2(1-t)/t, the memoryless schedule of Adjoint Matching."""
    return 2 * (1 - t) / t


def drift(mixture: Mixture, x: Float[Tensor, "*n"], t: float) -> Float[Tensor, "*n"]:
    """b_t(x) = x/t + σ_t² ∂_x log p_t(x), so that dX = b dt + σ dW reverses the noising of `mixture`."""
    return x / t + variance_rate(t) * noised(mixture, t).score(x)


def drift_slope(mixture: Mixture, x: Float[Tensor, "*n"], t: float) -> Float[Tensor, "*n"]:
    """∂_x b_t(x)."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(drift(mixture, x, t).sum(), x)
    return slope


def lattice_rate(
    drift: Float[Tensor, "*n"], variance_rate: float, spacing: float
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """u(x ± δ, x) = σ²/(2δ²) ± b/(2δ): a CTMC on δℤ whose Dynkin generator tends to Itô's, b ∂ + σ²/2 ∂²."""
    half = variance_rate / (2 * spacing**2)
    return half + drift / (2 * spacing), half - drift / (2 * spacing)


def bridge_adjoint(mixture: Mixture, x: Float[Tensor, "*n"], x_1: Float[Tensor, "*n"], t: float) -> Float[Tensor, "*n"]:
    """∂_y log p_1|t(X_1|y) at y = x, = ∂_x log p_t|1(x|X_1) - ∂_x log p_t(x): its mean over p*(X_1|x) is -∂_x V."""
    return (t * x_1 - x) / (1 - t) ** 2 - noised(mixture, t).score(x)


def lean_adjoint(
    path: Float[Tensor, "S n"], times: Float[Tensor, " S+1"], mixture: Mixture, end_slope: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """a_t = g'(X_1) ∂X_1/∂x_t = g'(X_1) exp ∫_t^1 ∂_x b_s(X_s) ds, the lean adjoint, by Euler steps.

    `path` holds the states at all `times` but the last; b is the base's drift whatever law the path was drawn from.
    """
    sensitivity = torch.ones_like(end_slope)
    for x, t, after in zip(path, times[:-1].tolist(), times[1:].tolist(), strict=True):
        sensitivity = sensitivity * (1 + (after - t) * drift_slope(mixture, x, t))
    return end_slope * sensitivity
