"""SVDD: value-guided decoding of the base, without training (Li et al. 2024, arXiv 2408.08252).

At each step a masked position is chosen, N candidates y_n are drawn from the base, and one of them is kept with
probability softmax_n(v(y_n)/α). α → 0 keeps the best.

    `value: pm`: v(x) = r(x with every masked position filled by its most probable token)
    `value: mc`: v(x) = E[r(X_1) | x] over the base. The paper fits a regression to base rollouts; here answers are
                 decoded with the mean over `lookahead` rollouts from each candidate, one token a step.

Checked against the authors' code (github.com/masa-ue/SVDD, commits 04c0bec and 3210803): candidates of the base, the
value of `pm`, N = 10. Differences: they always keep the candidate of the largest value, as here for α → 0; each of
their candidates reveals positions of its own, so that they differ more than here, where all reveal the same; their `mc`
is a network; they take 128 steps for 200 tokens and fill what is left with the most probable tokens.

On an enumerated task the law of a step has a closed form: with q the base's posterior, w = e^{v/α} and the exact v,
of which `mc` has an estimate,

    p(v) = N q_v w_v E[1/(w_v + Σ_{n<N} w_n)] = N q_v w_v ∫_0^∞ e^{-t w_v} (Σ_u q_u e^{-t w_u})^{N-1} dt
         = N q_v ∫ e^{x_v - e^{x_v}} (Σ_u q_u e^{-e^{x_u}})^{N-1} ds   with s = log t and x_u = s + log w_u.
"""

import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Reward
from pipeline.objectives.context import Context, DecodeContext
from pipeline.runtime.random_streams import Stream, uniforms
from pipeline.samplers.ancestral import inverse_cdf, rollout
from pipeline.samplers.posterior import log_posterior, offset_in_block
from pipeline.samplers.unmasking_order import schedule
from pipeline.settings.algorithms import Svdd

FAR = 60.0
"""A gap between two log w, beyond which the smaller never wins."""
STEP = 0.024


@torch.no_grad()
def decode(
    policy: nn.Module, prompt: Tensor, start: Tensor, noise: Tensor, reward: Reward, context: DecodeContext[Svdd]
) -> Tensor:
    """Answers, [n, L]; each is a function of its start and its row of `noise`, whatever the batch."""
    settings, length, mask_id = context.algorithm, noise.shape[1] // 2, context.mask_id
    count, rows = settings.candidates, torch.arange(len(prompt), device=prompt.device)
    keys = [int(value * 2**53) for value in noise[:, 0].tolist()]
    state, evaluate = start, context.evaluate
    offset = offset_in_block(policy, prompt, evaluate.block_length)
    order = schedule(state == mask_id, noise[:, :length], evaluate.tokens_per_step, evaluate.block_length, offset)
    for step in range(int(order.max()) + 1):
        reveal = order == step
        drawn = uniforms(context.seed, Stream.EVALUATION, 1, [(key, step, 0) for key in keys], length * count + 1)
        drawn = drawn.to(prompt.device)
        posterior = log_posterior(policy, prompt, state, reveal)
        candidates = state[:, :, None].repeat(1, 1, count)
        candidates[reveal] = inverse_cdf(posterior, drawn[:, 1:].view(len(prompt), length, count)[reveal])
        candidates = candidates.transpose(1, 2).flatten(0, 1)
        owner = rows.repeat_interleave(count)
        places = [(keys[row], step) for row in owner.tolist()]
        value = _value(policy, prompt[owner], candidates, owner, reward, context, places)
        chosen = inverse_cdf((value.view(-1, count) / settings.alpha).log_softmax(dim=1), drawn[:, :1])[:, 0]
        state = candidates.view(len(prompt), count, length)[rows, chosen]
    return state


def _value(
    policy: nn.Module,
    prompt: Tensor,
    state: Tensor,
    owner: Tensor,
    reward: Reward,
    context: DecodeContext[Svdd],
    keys: list[tuple[int, int]],
) -> Tensor:
    """v of every state, [m].

    Args:
        owner: the row of each state's prompt, by which `reward` knows it.
        keys: the row's noise and the step, for rollouts of their own.
    """
    masked = state == context.mask_id
    if not masked.any():
        return reward(owner, state)
    if context.algorithm.value == "pm":
        filled = state.clone()
        filled[masked] = log_posterior(policy, prompt, state, masked).argmax(dim=1)
        return reward(owner, filled)
    count, length = context.algorithm.lookahead, state.shape[1]
    candidates = context.algorithm.candidates  # those of one prompt follow each other
    places = [
        (key, step, number % candidates * count + ahead)
        for number, (key, step) in enumerate(keys)
        for ahead in range(count)
    ]
    noise = uniforms(context.seed, Stream.EVALUATION, 2, places, 2 * length).to(state.device).view(-1, 2, length)
    prompt, state, owner = (value.repeat_interleave(count, 0) for value in (prompt, state, owner))
    mask_id = context.mask_id
    done = rollout(policy, prompt, state, mask_id=mask_id, order_noise=noise[:, 0], token_noise=noise[:, 1])
    return reward(owner, done.tokens).view(-1, count).mean(dim=1)


def law(log_base: Tensor, context: Context[Svdd]) -> Tensor:
    """log p(x_i = v | x_j = u) of decoding, [2, M + 1, M], from the base's."""
    settings = context.algorithm
    reward = torch.from_numpy(context.problem.reward)
    final = torch.stack([reward.T, reward])  # [i, u, v]
    if settings.value == "pm":
        filled = final.flip(0).gather(2, log_base.flip(0)[:, :-1].argmax(dim=2, keepdim=True))[..., 0]
    else:
        filled = (log_base.flip(0)[:, :-1].exp() * final.flip(0)).sum(dim=2)
    value = torch.cat([final, filled[:, None]], dim=1)
    return _law_of_the_kept(log_base.exp(), value / settings.alpha, settings.candidates).log()


def _law_of_the_kept(q: Tensor, log_w: Tensor, count: int) -> Tensor:
    """p(v) by the trapezoidal rule in s, from every e^{x_u} small to every one large; renormalised.

    Where neighbours among the sorted log w are `FAR` apart, the larger always wins, so that a wider gap is shortened.
    """
    ranked, place = log_w.sort(dim=-1, descending=True)
    gaps = ranked.diff(dim=-1, prepend=ranked[..., :1]).clamp(min=-FAR)
    log_w = gaps.cumsum(dim=-1).gather(-1, place.argsort(dim=-1))
    total = torch.zeros_like(q)
    for s in torch.arange(-28, 21 - float(log_w.min()), STEP, dtype=torch.float64).tolist():
        x = s + log_w
        total += (x - x.exp()).exp() * (q * (-x.exp()).exp()).sum(dim=-1, keepdim=True) ** (count - 1)
    p = q * total
    return p / p.sum(dim=-1, keepdim=True)


PLUGIN = Algorithm(paper="SVDD, arXiv 2408.08252", settings=Svdd, decode=decode, law=law)
