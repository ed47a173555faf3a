"""Importance weights of completions: from log-ratios and rewards to the weights of the adjoint targets.

A group holds the K completions X^(1..K) ~ p^u(·|x) of one state x; groups are rows of [n, K] tensors.
"""

from jaxtyping import Float
from torch import Tensor


def log_weights(
    log_ratio: Float[Tensor, "n K"], reward: Float[Tensor, "n K"], inverse_alpha: float | Float[Tensor, "n 1"]
) -> Float[Tensor, "n K"]:
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


def tilt_for_ess(
    log_ratio: Float[Tensor, "n K"], reward: Float[Tensor, "n K"], target: float, largest: float, halvings: int = 40
) -> float:
    """The largest 1/α ≤ `largest` at which the mean ESS of the groups with unequal rewards is ≥ target·K.

    Groups whose K rewards are equal keep their ESS at any tilt and would hide the collapse of the others, so they are
    left out. If all groups are such, no tilt has an effect, and the result is 0. Found by bisection (ESS falls as 1/α
    grows from 0 when log_ratio = 0).
    """
    informative = reward.amax(dim=1) > reward.amin(dim=1)
    if not bool(informative.any()):
        return 0.0
    log_ratio, reward = log_ratio[informative], reward[informative]

    def reaches(inverse_alpha: float) -> bool:
        weight = self_normalized(log_weights(log_ratio, reward, inverse_alpha))
        return bool(effective_sample_size(weight).mean() >= target * reward.shape[1])

    if reaches(largest):
        return largest
    low, high = 0.0, largest
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    return low
