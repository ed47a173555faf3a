"""Losses as functions of log-probabilities."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def matching_loss(
    log_prob: Float[Tensor, "n K L"],
    weight: Float[Tensor, "n K"],
    loss_positions: Float[Tensor, "n K L"] | Bool[Tensor, "n K L"],
) -> Float[Tensor, " n"]:
    """L_x = - (1/K) Σ_k W_k (1/|J_k|) Σ_{i∈J_k} log p_θ(X^(k)_i | x, i), the sampled generalised KL.

    The generalised KL between rates, D(u, w) = Σ_y [u - w + w log(w/u)], with u = λ_t(x) Q_θ(y|x) and the
    target w = λ_t(x) (1/K) Σ_k W_k 1[y = y_k]: Σ_y u = λ_t(x) is constant, so only -w log u is left.
    Dropping the factor λ_t(x) > 0 keeps the minimiser (see `ctmc.masking.stratified_counts`).

    Args:
        log_prob: log p_θ of completion k's token at position i of state x; anything finite where `loss_positions` is 0.
        weight: W_k, with mean 1 over k.
        loss_positions: 1 on J_k and 0 elsewhere. J_k = the positions first revealed by completion k gives the paper's
            estimator (`jumps: first`); J_k = M(x), all masked positions, is its Rao-Blackwellisation over the
            order of the jumps (`jumps: all`).
    """
    per_completion = (log_prob * loss_positions).sum(dim=-1) / loss_positions.sum(dim=-1).clamp(min=1)
    return -(weight * per_completion).mean(dim=-1)


def squared_loss(
    prob: Float[Tensor, "n K L"],
    square: Float[Tensor, "n L"],
    weight: Float[Tensor, "n K"],
    loss_positions: Bool[Tensor, "n K L"],
    masked: Bool[Tensor, "n L"],
) -> Float[Tensor, " n"]:
    """Σ_y (u - w)² / λ² = Σ_{i∈M} Σ_v p²/|M|² - (2/|M|) (1/K) Σ_k W_k (1/|J_k|) Σ_{i∈J_k} p_θ(X^(k)_i | x, i) + const.

    Args:
        prob: p_θ of completion k's token at position i of state x.
        square: Σ_v p_θ(v | x, i)² where x is masked.
        weight, loss_positions: as in `matching_loss`.
    """
    count = masked.sum(dim=-1).clamp(min=1)
    per_completion = (prob * loss_positions).sum(dim=-1) / loss_positions.sum(dim=-1).clamp(min=1)
    return (square * masked).sum(dim=-1) / count**2 - 2 * (weight * per_completion).mean(dim=-1) / count


def clipped_surrogate(
    log_ratio: Float[Tensor, "*n"], advantage: Float[Tensor, "*#n"], clip: float
) -> Float[Tensor, "*n"]:
    """min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ = e^{log_ratio} = p_θ / p_old.

    ρ beyond e^{60} counts as e^{60}, so that nothing overflows and A = 0 gives 0.
    """
    ratio = bounded_ratio(log_ratio)
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def bounded_ratio(log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """ρ = e^{log_ratio}, at most e^{60}."""
    return log_ratio.clamp(max=60.0).exp()


def k3_kl(log_prob: Float[Tensor, "*n"], reference: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """e^{q - p} - (q - p) - 1 ≥ 0 for log-probabilities p and q: of mean KL(p ‖ q) over samples of p. The exponential
    is `bounded_ratio`."""
    difference = reference - log_prob
    return bounded_ratio(difference) - difference - 1
