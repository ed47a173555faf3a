"""Uniform-noise CTMCs: single-token jumps that reverse X_1 → X_κ, every state enumerated. See docs/uniform.md.

A state of L tokens out of M values is an index x in {0..M^L-1} where a whole table is meant, a row of tokens where
one state is. κ, the probability that a token is already that of X_1, rises from 0 to 1; rates are per unit of
the clock log κ. A rate table [..., L, M] holds at [i, v] the rate of setting position i to v, and 0 at v = x^i.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot


def all_states(length: int, values: int) -> Int[Tensor, "X L"]:
    """x = (x^1, …, x^L) ∈ {0..M-1}^L in lexicographic order: the tokens of every index."""
    return torch.cartesian_prod(*[torch.arange(values)] * length).view(-1, length)


def neighbors(length: int, values: int) -> Int[Tensor, "X L M"]:
    """y(x, i, v): the index of x with position i set to v."""
    tokens, place = all_states(length, values), values ** torch.arange(length - 1, -1, -1)
    move = (torch.arange(values) - tokens[..., None]) * place[:, None]
    return torch.arange(values**length)[:, None, None] + move


def noised(mass: Float[Tensor, " X"], kappa: Float[Tensor, " S"], length: int) -> Float[Tensor, "S X"]:
    """(K_κ^⊗L m)(x) = Σ_z Π_i [(1-κ)/M + κ 1(x^i = z^i)] m(z), equation (1).

    The marginal p_κ of the base when m = p_1; any other mass over X_1 may be noised too.
    """
    return _noised_axes(mass, kappa, length, range(length)).flatten(1)


def posterior(mass: Float[Tensor, " X"], kappa: Float[Tensor, " S"], length: int) -> Float[Tensor, "S X L M"]:
    """p(X_1^i = v | X_κ = x), equation (2), of the law proportional to `mass`."""
    states, moves = len(mass), neighbors(length, round(len(mass) ** (1 / length)))
    tokens, values = all_states(length, moves.shape[-1]), moves.shape[-1]
    kernel = _kernel(tokens, torch.arange(values).expand(states, length, values), kappa[:, None, None, None])
    columns = []
    for i in range(length):
        others = _noised_axes(mass, kappa, length, [j for j in range(length) if j != i]).flatten(1)
        columns.append(others[:, moves[:, i]])
    joint = torch.stack(columns, dim=2) * kernel
    return joint / joint.sum(dim=-1, keepdim=True)


def reversal_rate(
    posterior: Float[Tensor, "*n L M"], tokens: Int[Tensor, "*n L"], kappa: Float[Tensor, "*n"], eta: float = 1.0
) -> Float[Tensor, "*n L M"]:
    """u_κ(y, x) = κ/(1-κ) p(v|x) + (η/M) [1 - p(x^i|x) κM/(1-κ+κM)], equations (4) and (6).

    η = 1 is the time reversal of uniform noising, the memoryless base; η = 0 the rate of discrete flow matching.
    Linear in the posterior, so the posterior δ_z gives the rate of the bridge to X_1 = z (see `bridge_rate`).
    """
    values, kappa = posterior.shape[-1], kappa[..., None, None]
    stays = one_hot(tokens, values).bool()
    held = (posterior * stays).sum(dim=-1, keepdim=True) * kappa * values / (1 - kappa + kappa * values)
    return (kappa / (1 - kappa) * posterior + eta / values * (1 - held)).masked_fill(stays, 0.0)


def bridge_rate(
    x_1: Int[Tensor, "*n L"], tokens: Int[Tensor, "*n L"], kappa: Float[Tensor, "*n"], values: int
) -> Float[Tensor, "*n L M"]:
    """u_κ(y, x | X_1) = (1/M) p_κ|1(y|X_1) / p_κ|1(x|X_1), equation (12); its mean over p*(X_1|x) is u*_κ(y, x)."""
    return reversal_rate(one_hot(x_1, values).to(kappa.dtype), tokens, kappa)


def value(
    mass: Float[Tensor, " X"], cost: Float[Tensor, " X"], kappa: Float[Tensor, " S"], length: int
) -> Float[Tensor, "S X"]:
    """V_κ(x) = -log Σ_z p(z|x) e^{-g(z)} = log (K_κ p_1)(x) - log (K_κ p_1 e^{-g})(x), equation (8)."""
    return noised(mass, kappa, length).log() - noised(mass * (-cost).exp(), kappa, length).log()


def optimal_rate(
    rate: Float[Tensor, "*n X L M"], value: Float[Tensor, "*n X"], moves: Int[Tensor, "X L M"]
) -> Float[Tensor, "*n X L M"]:
    """u*_κ(y, x) = u_κ(y, x) e^{-V_κ(y) + V_κ(x)}, equation (7)."""
    return rate * (value[..., None, None] - value[..., moves]).exp()


def adjoint(
    value: Float[Tensor, " X"], moves: Int[Tensor, "*n L M"], end_cost: Float[Tensor, "*n"]
) -> Float[Tensor, "*n L M"]:
    """ã_κ(y; X_1) = Σ_z p(z|y) e^{-g(z) + g(X_1)} = e^{-V_κ(y) + g(X_1)}, equation (10), for every neighbour y."""
    return (end_cost[..., None, None] - value[moves]).exp()


def generator(rate: Float[Tensor, "X L M"], moves: Int[Tensor, "X L M"]) -> Float[Tensor, "X X"]:
    """Q[x, y] = u(y, x), Q[x, x] = -Σ_y u(y, x): the backward generator as a matrix."""
    matrix = torch.zeros(len(rate), len(rate), dtype=rate.dtype).scatter_add(1, moves.flatten(1), rate.flatten(1))
    return matrix - torch.diag(matrix.sum(dim=1))


def chain_law(
    start: Float[Tensor, " X"], rate: Float[Tensor, "S X L M"], step: float, moves: Int[Tensor, "X L M"]
) -> Float[Tensor, " X"]:
    """p_1 = p_0 Π_s P_s, equation (13): the exact law of the chain that `rollout` samples."""
    law = start
    for now in rate:
        flow = law[:, None] * _transition(now, step)
        law = flow[:, 0].index_add(0, moves.flatten(), flow[:, 1:].flatten())
    return law


def rollout(
    start: Int[Tensor, " n"],
    base: Float[Tensor, "S X L M"],
    policy: Float[Tensor, "S X L M"],
    step: float,
    moves: Int[Tensor, "X L M"],
    random: torch.Generator,
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """X_1 ~ p^u and log dp^base/dp^u(X) = Σ_s log P_s^base(x_{s+1}|x_s) / P_s^u(x_{s+1}|x_s), equation (14).

    At each step at most one token changes. The ratio is that of the chains: exact for what is sampled, whatever
    the step, and Girsanov's for the CTMC as h → 0.
    """
    state, log_ratio = start, torch.zeros(len(start), dtype=base.dtype)
    for base_now, policy_now in zip(base, policy, strict=True):
        proposed, wanted = _transition(policy_now[state], step), _transition(base_now[state], step)
        choice = torch.multinomial(proposed, 1, generator=random)
        log_ratio += (wanted.gather(1, choice) / proposed.gather(1, choice)).log()[:, 0]
        # Column 0 is staying, the others the moves; a state is its own neighbour at v = x^i.
        state = torch.cat([state[:, None], moves[state].flatten(1)], dim=1).gather(1, choice)[:, 0]
    return state, log_ratio


def renoise(
    tokens: Int[Tensor, "n L"], kappa: Float[Tensor, " n"], values: int, random: torch.Generator
) -> Int[Tensor, "n L"]:
    """X_κ ~ p_κ|1(· | X_1): each token kept with probability κ, else uniform; the reciprocal projection."""
    kept = torch.rand(tokens.shape, generator=random) < kappa[:, None]
    return torch.where(kept, tokens, torch.randint(values, tokens.shape, generator=random))


def matching_loss(rate: Float[Tensor, "*n L M"], target: Float[Tensor, "*n L M"]) -> Float[Tensor, "*n"]:
    """Σ_y [u(y, x) - w(y, x) log u(y, x)], the generalised KL between rates up to a constant, equation (15).

    Unlike under masking Σ_y u is not constant, so the first term stays. Linear in w: a sampled target gives an
    unbiased gradient.
    """
    return (rate - target * rate.clamp(min=1e-30).log()).sum(dim=(-1, -2))


def _transition(rate: Float[Tensor, "n L M"], step: float) -> Float[Tensor, "n 1+L*M"]:
    """P(stay) = e^{-hΛ}, P(y) = (1 - e^{-hΛ}) u(y)/Λ with Λ = Σ_y u(y), in this order."""
    jump = rate.flatten(1)
    total = jump.sum(dim=1, keepdim=True)
    return torch.cat([(-step * total).exp(), -torch.expm1(-step * total) * jump / total], dim=1)


def _kernel(
    tokens: Int[Tensor, "X L"], x_1: Int[Tensor, "X L M"], kappa: Float[Tensor, "S 1 1 1"]
) -> Float[Tensor, "S X L M"]:
    """p_κ|1(x^i | v) = (1-κ)/M + κ 1(x^i = v)."""
    return (1 - kappa) / x_1.shape[-1] + kappa * (tokens[..., None] == x_1)


def _noised_axes(
    mass: Float[Tensor, " X"], kappa: Float[Tensor, " S"], length: int, axes: range | list[int]
) -> Float[Tensor, "S ..."]:
    """κ m + (1-κ) mean_i m, applied to each axis i in turn; one axis of M values per position."""
    cube = mass.view(1, *[round(len(mass) ** (1 / length))] * length)
    kappa = kappa.view(-1, *[1] * length)
    cube = cube.expand(len(kappa), *cube.shape[1:])
    for axis in axes:
        cube = kappa * cube + (1 - kappa) * cube.mean(dim=1 + axis, keepdim=True)
    return cube
