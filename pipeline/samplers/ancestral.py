"""Rollouts with known probabilities: positions are chosen before their tokens are drawn.

At step s the set S_s of k masked positions is chosen (uniformly at random, or where the policy is most
confident), then each token is drawn from p(v | x_s, i) independently:

    log p^u(path) = Σ_s Σ_{i∈S_s} log p^u(x_i | x_s, i).

The probability of the order cancels in every importance ratio, so it is not recorded.

With `cache: block` one pass over the whole sequence at the block's start, state x_b, gives the keys and values outside
the block and serves its first step; later steps pass the block alone. The tokens are drawn from p̃(v | x_b, x_s, i), a
Markov chain in (x_b, x_s), and log p̃ is recorded and replayed. All that is said about p^u and its importance ratios
holds for this law. It is not the law of the same model without a cache, unless the model sees its input block by block
(`models.block_cache`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.ctmc.masking import state_before
from pipeline.models.block_cache import BlockCache
from pipeline.samplers.posterior import block_cache, log_posterior, most_confident, offset_in_block, token_log_prob
from pipeline.samplers.unmasking_order import blocks, leftmost, schedule, steps_in


@dataclass(frozen=True)
class Trajectories:
    """n trajectories. Positions that the starting state shows have step `REVEALED` and log-probability 0."""

    tokens: Int[Tensor, "n L"]
    unmask_step: Int[Tensor, "n L"]
    log_prob: Float[Tensor, "n L"]


@torch.no_grad()
def rollout(
    model: nn.Module,
    prompt: Int[Tensor, "n P"],
    start: Int[Tensor, "n L"],
    *,
    mask_id: int,
    order_noise: Float[Tensor, "n L"],
    token_noise: Float[Tensor, "n L"],
    order: str = "random",
    tokens_per_step: int = 1,
    block_length: int | None = None,
    temperature: float = 1.0,
    cache: str | None = None,
) -> Trajectories:
    """X_1 ~ p^u(· | x) from each starting state x, with the exact log-probability of every revealed token.

    Args:
        order_noise, token_noise: independent uniforms in [0, 1), float64. A trajectory is a function of its
            own row of noise, so its tokens do not depend on the batch it is computed in.
        order: "random" (uniform over orders) or "confidence" (largest max_v p(v | x, i) first, decided
            before the tokens are drawn). With "random" the head runs on the revealed positions only.
        block_length: number of positions in a block; None for a single block.
        cache: "block" for the law p̃ with a cache, for models that take one.
    """
    state = start.clone()
    log_prob = torch.zeros(start.shape, dtype=torch.float32, device=start.device)
    offset, kept = offset_in_block(model, prompt, block_length), None
    unmask_step = schedule(start == mask_id, order_noise, tokens_per_step, block_length, offset)
    for block in blocks(start.shape[1], block_length, offset):
        first, steps = steps_in(unmask_step, block)
        kept = block_cache(model, prompt, block, kept) if cache else None
        in_pass = steps >= 0 if kept and kept.exact else steps > 0
        for number in range(int(steps.max())):
            active, step = steps > number, first[:, None] + number
            rows = active if number else in_pass
            if order == "random":
                select = (unmask_step == step) & active[:, None]
            else:
                select = leftmost(state == mask_id, block_length, offset) & active[:, None]
            own = kept.only(rows[in_pass]) if kept else None
            posterior = log_posterior(model, prompt[rows], state[rows], select[rows], temperature, cache=own)
            if order == "random":
                reveal = select
            else:
                reveal = most_confident(posterior, select, tokens_per_step)
                posterior = posterior[reveal[select]]
                unmask_step = torch.where(reveal, step, unmask_step)
            drawn = inverse_cdf(posterior, token_noise[reveal][:, None])
            state[reveal] = drawn[:, 0]
            log_prob[reveal] = posterior.gather(1, drawn)[:, 0].float()
    return Trajectories(state, unmask_step, log_prob)


def inverse_cdf(log_prob: Float[Tensor, "s V"], uniform: Float[Tensor, "s N"]) -> Int[Tensor, "s N"]:
    """v = min{v : F(v) > u}, N draws of each law: one uniform per token where Gumbel noise would need V of them.

    The cumulative sum is in float64: in lower precision the tail of a large vocabulary would be lost.
    """
    cdf = log_prob.double().exp().cumsum(dim=1)
    drawn = torch.searchsorted(cdf, uniform.double() * cdf[:, -1:], right=True)
    # u·F(V) may round up to F(V): then take the last token with positive probability, which is never [MASK].
    last = (cdf < cdf[:, -1:]).sum(dim=1, keepdim=True)
    return torch.minimum(drawn, last)


@torch.no_grad()
def path_log_prob(
    model: nn.Module,
    prompt: Int[Tensor, "n P"],
    trajectories: Trajectories,
    *,
    mask_id: int,
    temperature: float = 1.0,
    states_per_batch: int = 1024,
    cached_blocks: int | None = None,
) -> Float[Tensor, "n L"]:
    """log p(x_i | x_s, i) for i ∈ S_s under `model`, by teacher forcing: the states of stored trajectories are known,
    so `states_per_batch` of them are evaluated at a time.

    Args:
        cached_blocks: the block length of trajectories whose law is p̃, with a cache; None for p. Each block of a
            trajectory takes the pass that fills the cache, and its later states side by side passes over the block.
    """
    log_prob = torch.zeros(trajectories.tokens.shape, dtype=torch.float32, device=prompt.device)

    def read(rows: Tensor, step: Tensor, block: slice = slice(None), cache: BlockCache | None = None) -> None:
        """The tokens that step s reveals in a block, for pairs of a row and a step."""
        if not len(rows):
            return
        tokens, unmask_step = trajectories.tokens[rows], trajectories.unmask_step[rows]
        state = state_before(tokens, unmask_step, step[:, None], mask_id)
        select = torch.zeros_like(tokens, dtype=torch.bool)
        select[:, block] = unmask_step[:, block] == step[:, None]
        found = token_log_prob(model, prompt[rows], state, select, tokens[select][:, None], temperature, cache)
        row, position = select.nonzero(as_tuple=True)
        log_prob[rows[row], position] = found[:, 0].float()

    if cached_blocks is None:
        steps = torch.arange(int(trajectories.unmask_step.max()) + 1, device=prompt.device)
        reveals = (trajectories.unmask_step[:, None, :] == steps[None, :, None]).any(dim=2)  # [n, steps]
        for pairs in reveals.nonzero().split(states_per_batch):
            read(*pairs.unbind(1))
        return log_prob
    in_blocks = blocks(log_prob.shape[1], cached_blocks, offset_in_block(model, prompt, cached_blocks))
    taken = torch.stack([steps_in(trajectories.unmask_step, block)[1] for block in in_blocks], dim=1)
    started = taken.cumsum(dim=1) - taken
    trajectories_per_batch = max(1, states_per_batch // max(1, int(taken.max())))
    for batch in torch.arange(len(prompt), device=prompt.device).split(trajectories_per_batch):
        cache: BlockCache | None = None
        for number, block in enumerate(in_blocks):
            cache = block_cache(model, prompt, block, cache)
            rows = batch if cache.exact else batch[taken[batch, number] > 0]
            first, steps = started[rows, number], taken[rows, number]
            if not steps.any():
                continue
            read(rows, first, block, cache)
            later = torch.arange(1, int(steps.max()), device=prompt.device)
            for pairs in (later < steps[:, None]).nonzero().split(states_per_batch):
                place = pairs[:, 0]
                read(rows[place], first[place] + later[pairs[:, 1]], block, cache.of(place))
    return log_prob
