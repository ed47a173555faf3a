"""Bias and variance of the estimators of Q*(y | x) from K completions, at the empty state of two tokens.

A completion draws the position i of its first jump with probability ½ each, X_i from p^u(· | ··) and then the other
token. The state after its first jump is y = (i, X_i). The estimators, with
W_k = K softmax_k(log p^base - log p^u + r/α)_k:

    first     (1/K) Σ_k W_k 1[y_k = y]
    all       (1/K) Σ_k W_k ½ 1[X^(k)_i = v],  y = (i, v)                             (over both orders)
    control   Q^u(y | x) + (1/K) Σ_k (W_k - 1) 1[y_k = y]
    analytic  Q^base(y | x) (1/K) Σ_k ã(y; X^(k)) = Q*(y | x) (1/K) Σ_k e^{g(X^(k)) - V(x)},

the last with the adjoint ã by enumeration and X^(k) from the policy, as in the algorithm `dam_analytic`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ctmc import exact
from pipeline.ctmc.weights import log_weights, self_normalized

ENOUGH = 4096
"""Groups from which the covariance of estimates is estimated; all of them would take seconds."""


@dataclass(frozen=True)
class Error:
    """Error of one estimator, summed over y and divided by Σ_y Q*(y | x)².

    `bias` is the squared bias minus the variance of the mean, so it may be negative; `bias_noise` is its standard
    deviation if the true bias is 0: √2 ‖C‖_F, with C the covariance of the mean, between all pairs of states y.
    """

    bias: float
    bias_noise: float
    variance: float


def errors(
    log_base: Float[Tensor, "M M"],
    log_posterior: Float[Tensor, "2 S M"],
    reward: Float[Tensor, "M M"],
    inverse_alpha: float,
    completions: int,
    groups: int,
    generator: torch.Generator,
) -> dict[str, Error]:
    """The error of each estimator, from `groups` estimates with K = `completions`; `log_posterior` is the policy's."""
    order, tokens = completions_of(log_posterior, groups * completions, generator)
    size = len(log_base)
    ratio = _path_log_prob(exact.posteriors(log_base), order, tokens) - _path_log_prob(log_posterior, order, tokens)
    gain = reward[tokens[:, 0], tokens[:, 1]]
    weight = self_normalized(log_weights(ratio.view(groups, -1), gain.view(groups, -1), inverse_alpha)).flatten()
    value = exact.values(log_base, -reward * inverse_alpha)[0, -1]
    target = _rates(exact.posteriors(exact.tilted(log_base, reward, inverse_alpha)))
    jump = order * size + tokens.gather(1, order[:, None])[:, 0]

    def sum_per_group(entry: Tensor, mass: Tensor) -> Tensor:
        place = torch.arange(groups).repeat_interleave(completions) * 2 * size + entry
        return torch.bincount(place, mass / completions, minlength=2 * size * groups).view(groups, 2 * size)

    estimates = {
        "first": sum_per_group(jump, weight),
        "all": sum_per_group(tokens[:, 0], weight / 2) + sum_per_group(size + tokens[:, 1], weight / 2),
        "control": _rates(log_posterior) + sum_per_group(jump, weight - 1),
        "analytic": (-gain * inverse_alpha - value).exp().view(groups, -1).mean(dim=1, keepdim=True) * target,
    }
    return {name: _error(estimate, target) for name, estimate in estimates.items()}


def completions_of(
    log_posterior: Float[Tensor, "2 S M"], count: int, generator: torch.Generator
) -> tuple[Int[Tensor, " n"], Int[Tensor, "n 2"]]:
    """(i, X_1) of each completion of the empty state: the position of its first jump, and the answer."""
    order = torch.randint(2, (count,), generator=generator)
    masked = torch.full((count,), log_posterior.shape[2])
    first = _draw(log_posterior, order, masked, generator)
    second = _draw(log_posterior, 1 - order, first, generator)
    return order, torch.where(order[:, None] == torch.arange(2), first[:, None], second[:, None])


def _draw(log_posterior: Tensor, position: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """x_i ~ p(· | x_j) for every row: row + uniform, looked up in the cumulative distributions laid end to end."""
    size = log_posterior.shape[2]
    cdf = log_posterior.exp().cumsum(dim=2)
    row = position * log_posterior.shape[1] + other
    ends = (cdf / cdf[:, :, -1:]).flatten(0, 1) + torch.arange(2 * log_posterior.shape[1])[:, None]
    uniform = torch.rand(len(row), dtype=torch.float64, generator=generator)
    return (torch.searchsorted(ends.flatten(), row + uniform, right=True) - row * size).clamp(0, size - 1)


def _path_log_prob(log_posterior: Tensor, order: Tensor, tokens: Tensor) -> Tensor:
    """log p(X_i | ··) + log p(X_j | X_i), [n]"""
    first, second = tokens.gather(1, order[:, None])[:, 0], tokens.gather(1, 1 - order[:, None])[:, 0]
    return log_posterior[order, -1, first] + log_posterior[1 - order, first, second]


def _rates(log_posterior: Tensor) -> Tensor:
    """Q(y | x) = ½ p(v | ··, i) of the 2M states after the first jump."""
    return (log_posterior[:, -1] - math.log(2)).exp().flatten()


def _error(estimate: Tensor, target: Tensor) -> Error:
    variance, scale = estimate.var(dim=0), target.square().sum()
    of_mean = variance / len(estimate)
    bias = (estimate.mean(dim=0) - target).square() - of_mean
    noise = math.sqrt(2) * estimate[:ENOUGH].T.cov().norm() / len(estimate)
    return Error(float(bias.sum() / scale), float(noise / scale), float(variance.sum() / scale))
