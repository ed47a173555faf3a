"""Starting states of a round and their completions, each a function of (seed, round, prompt, state, sample)."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from pipeline.ctmc.masking import block_by_block, remask, stratified_counts
from pipeline.runtime.random_streams import Stream, generator, torch_generator, uniforms
from pipeline.samplers.ancestral import rollout
from pipeline.samplers.posterior import offset_in_block
from pipeline.samplers.unmasking_order import block_of
from pipeline.settings.sections import Rollout


def prompts_of_round(available: int, count: int, round_: int, seed: int) -> np.ndarray:
    """Indices of the prompts of round k, [count]: each epoch is a random order of all prompts, and the rounds take
    consecutive parts of it, so that no prompt repeats before all were used."""
    first, last = (round_ - 1) * count, round_ * count
    epochs = range(first // available, (last - 1) // available + 1)
    orders = [generator(seed, Stream.PROMPTS, epoch).permutation(available) for epoch in epochs]
    return np.concatenate(orders)[first - epochs.start * available :][:count]


@torch.no_grad()
def sample_states(
    policy: nn.Module,
    prompts: Int[Tensor, "s P"] | list[Int[Tensor, " _"]],
    prompt_ids: np.ndarray,
    starts: Int[Tensor, "s L"] | list[Int[Tensor, " _"]],
    states: Sequence[int],
    mask_id: int,
    settings: Rollout,
    seed: int,
    round_: int,
) -> dict[str, Tensor]:
    """K completions of each of the given states of a round, as columns of `parquet.ROLLOUTS`.

    `prompts` holds the prompts of all states of the round and `starts` the answers as they begin: empty, all [MASK], or
    partly revealed. Prompts, and starts, of the given states must have the same length.
    `start: empty`: x is that beginning. `start: remasked`: x ~ p(x_t | X_1) for X_1 ~ p^u from there and t ~ U(0,1);
    with `block_length`, a state that a rollout in blocks passes through.
    """
    on = next(policy.parameters()).device
    options = settings.model_dump(include={"order", "tokens_per_step", "block_length", "temperature", "cache"})
    draw = partial(rollout, policy, mask_id=mask_id)
    prompt = torch.stack([prompts[state] for state in states]).to(on)
    start = torch.stack([starts[state] for state in states]).to(on)
    length = start.shape[1]
    keys = [(int(prompt_ids[state]), state, 0) for state in states]
    if settings.start == "remasked":
        noise = uniforms(seed, Stream.PROJECTION, round_, keys, 3 * length).to(on).split(length, dim=1)
        x_1 = draw(prompt, start, order_noise=noise[0], token_noise=noise[1], **options).tokens
        most = torch.tensor([int((of_state == mask_id).sum()) for of_state in starts])
        counts = stratified_counts(most, torch_generator(seed, Stream.PROJECTION, round_))[torch.tensor(states)].to(on)
        free, hidden = start == mask_id, noise[2]
        if settings.block_length:
            offset = offset_in_block(policy, prompt, settings.block_length)
            block = block_of(free, settings.block_length, offset)
            hidden, _ = block_by_block(counts, hidden, free, block)
        start = torch.where(remask(counts, hidden.masked_fill(~free, torch.inf)), mask_id, x_1)
    samples = settings.completions
    keys = [(prompt, state, sample) for prompt, state, _ in keys for sample in range(samples)]
    noise = uniforms(seed, Stream.COMPLETION, round_, keys, 2 * length).to(on).split(length, dim=1)
    prompt, start = prompt.repeat_interleave(samples, 0), start.repeat_interleave(samples, 0)
    done = draw(prompt, start, order_noise=noise[0], token_noise=noise[1], **options)
    prompt_id, state_id, sample_id = torch.tensor(keys).unbind(1)
    return {
        "round": torch.full_like(prompt_id, round_),
        "prompt_id": prompt_id,
        "state_id": state_id,
        "sample_id": sample_id,
        "prompt_tokens": prompt.cpu(),
        "start": start.cpu(),
        "tokens": done.tokens.cpu(),
        "unmask_step": done.unmask_step.cpu(),
        "log_prob": done.log_prob.cpu(),
    }
