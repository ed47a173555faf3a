"""Importance weights of completions: from log-ratios and rewards to the weights of the adjoint targets.

A group holds the K completions X^(1..K) ~ p^u(·|x) of one state x; groups are rows of [n, K] tensors.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def log_weights(
    log_ratio: Float[Tensor, "*n"], reward: Float[Tensor, "*n"], inverse_alpha: float
) -> Float[Tensor, "*n"]:
    """ℓ_k = Σ_s Σ_{i∈S_s} [log p^base(x_i|x_s) - log p^u(x_i|x_s)] + r(X_1^(k))/α.

    `log_ratio` is the double sum along the sampled path. S_s, the positions revealed at step s, cancels
    as long as it was chosen before their tokens were drawn.
    """
    return log_ratio + reward * inverse_alpha


def self_normalized(log_weight: Float[Tensor, "n K"]) -> Float[Tensor, "n K"]:
    """W_k = K · softmax_k(ℓ)_k, so that (1/K) Σ_k W_k = 1.

    The self-normalised importance-sampling estimate of the adjoint: the target rate
    u*(y|x) ≈ λ_t(x) · (1/K) Σ_k W_k 1[y = y_k] sums to λ_t(x), as u* does. Biased by O(1/K), consistent as
    K → ∞; W_k = 1 for every k when the policy is optimal.
    """
    return log_weight.shape[-1] * log_weight.softmax(dim=-1)


def effective_sample_size(weight: Float[Tensor, "n K"]) -> Float[Tensor, " n"]:
    """ESS = 1 / Σ_k (W_k/K)²: between 1 (one completion carries the group) and K (all alike)."""
    return 1.0 / (weight / weight.shape[-1]).square().sum(dim=-1)


def largest_step(
    log_weight: Callable[[float], Float[Tensor, "n K"]], votes: Bool[Tensor, " n"], share: float, largest: float
) -> float:
    """The largest s ≤ `largest` at which the mean ESS of the voting groups is ≥ share · (their mean ESS at s = 0).

    Found by bisection. The ESS at s = 0 is K for log weights s ℓ, and less for others.

    Args:
        log_weight: s -> ℓ at that step.
        votes: which groups count. A group whose rewards are all equal keeps a large ESS at any step and would hide the
            collapse of the others. Where no group votes, all do.
    """
    votes = votes if bool(votes.any()) else torch.ones_like(votes)

    def mean_ess(step: float) -> float:
        return float(effective_sample_size(self_normalized(log_weight(step)[votes])).mean())

    wanted = share * mean_ess(0.0)
    if mean_ess(largest) >= wanted:
        return largest
    low, high = 0.0, largest
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_ess(middle) >= wanted else (low, middle)
    return low
