"""Two tokens of M values each: p*, V, Q*, p^u and KL(p* ‖ p^u) by enumeration, in float64.

The distribution of masked-diffusion paths is given by a table of posteriors log p(x_i = v | x_j = u), j = 1 - i,
indexed [i, u, v]. u = M stands for [MASK]: its rows belong to the state in which both positions are masked. The rows
cover all 1 + 2M masked states. Value functions are indexed [i, u] in the same way.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def posteriors(log_joint: Float[Tensor, "M M"]) -> Float[Tensor, "2 S M"]:
    """The posteriors of a joint: log p(x_i = v | x_j = u) and, at u = M, log p(x_i = v); S = M + 1."""
    return _states(log_joint).log_softmax(dim=-1)


def tilted(log_base: Float[Tensor, "M M"], reward: Float[Tensor, "M M"], inverse_alpha: float) -> Float[Tensor, "M M"]:
    """log p*(x) = log p^base(x) + r(x)/α - log Z."""
    log_target = log_base + reward * inverse_alpha
    return log_target - log_target.flatten().logsumexp(dim=0)


def values(log_base: Float[Tensor, "M M"], terminal_cost: Float[Tensor, "M M"]) -> Float[Tensor, "2 S"]:
    """V(x) = -log Σ_z p^base(z | x) e^{-g(z)} of every masked state; V = g where nothing is masked."""
    return _states(log_base).logsumexp(dim=-1) - _states(log_base - terminal_cost).logsumexp(dim=-1)


def values_after(value: Float[Tensor, "2 S"], terminal_cost: Float[Tensor, "M M"]) -> Float[Tensor, "2 S M"]:
    """V(y) of the state y that x = (i, u) jumps to when position i is revealed as v."""
    final = torch.stack([terminal_cost.T, terminal_cost])
    half = value.flip(0)[:, None, :-1]  # position i shows v now, and the other one is still masked
    return torch.cat([final, half], dim=1)


def optimal_posteriors(log_base: Float[Tensor, "M M"], terminal_cost: Float[Tensor, "M M"]) -> Float[Tensor, "2 S M"]:
    """log p*(v | x, i) = log p^base(v | x, i) - V(y) + V(x): Q* = Q^base e^{-V(y)+V(x)}, not renormalised."""
    value = values(log_base, terminal_cost)
    return posteriors(log_base) - values_after(value, terminal_cost) + value[..., None]


def path_law(log_posterior: Float[Tensor, "2 S M"]) -> Float[Tensor, "M M"]:
    """log p^u(x_1, x_2) = log [½ p(x_1 | ··) p(x_2 | x_1·) + ½ p(x_2 | ··) p(x_1 | ·x_2)]."""
    revealed, masked = log_posterior[:, :-1], log_posterior[:, -1]
    first_then_second = masked[0][:, None] + revealed[1]
    second_then_first = masked[1][None, :] + revealed[0].T
    return torch.logaddexp(first_then_second, second_then_first) - math.log(2)


def kl(log_p: Float[Tensor, "*n M"], log_q: Float[Tensor, "*n M"]) -> Float[Tensor, "*n"]:
    """KL(p ‖ q) = Σ_v p_v log(p_v / q_v) over the last axis, with 0 log 0 = 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1)


def jump_kl(log_target: Float[Tensor, "M M"], log_posterior: Float[Tensor, "2 S M"]) -> tuple[float, float]:
    """½ Σ_i KL of jump 1 and ½ Σ_i E_{u ~ p*} KL of jump 2: they add up to KL(path) ≥ KL(p* ‖ p^u)."""
    optimum = posteriors(log_target)
    per_state = kl(optimum, log_posterior)
    visits = optimum.flip(0)[:, -1].exp()  # p*(x_j = u), the law of the state that jump 2 starts from
    return float(per_state[:, -1].mean()), float((visits * per_state[:, :-1]).sum(dim=1).mean())


def _states(log_joint: Float[Tensor, "M M"]) -> Float[Tensor, "2 S M"]:
    """log p(x_i = v, x_j = u), and at u = M its sum over u."""
    both = torch.stack([log_joint.T, log_joint])
    return torch.cat([both, both.logsumexp(dim=1, keepdim=True)], dim=1)
