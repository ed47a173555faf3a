"""LLaDA's decoding with low-confidence remasking (arXiv 2502.09992): for evaluation only.

Every masked position proposes its most probable token; the k proposals of highest probability are kept, the others are
masked again. Which positions are kept depends on the proposed tokens, so the product of the tokens' probabilities would
not be the probability of a rollout.
"""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pipeline.samplers.posterior import block_cache, log_posterior, most_confident, offset_in_block
from pipeline.samplers.unmasking_order import blocks


@torch.no_grad()
def decode(
    model: nn.Module,
    prompt: Int[Tensor, "n P"],
    start: Int[Tensor, "n L"],
    *,
    mask_id: int,
    tokens_per_step: int = 1,
    block_length: int | None = None,
    cache: str | None = None,
) -> Int[Tensor, "n L"]:
    """Greedy decoding (temperature 0) of the masked tokens of `start`, block by block: ⌈m / k⌉ steps for m of them in
    one block. `cache` is as in `ancestral.rollout`."""
    state, kept = start.clone(), None
    for block in blocks(start.shape[1], block_length, offset_in_block(model, prompt, block_length)):
        kept = block_cache(model, prompt, block, kept) if cache else None
        masked = torch.zeros_like(state, dtype=torch.bool)
        while (state[:, block] == mask_id).any():
            masked[:, block] = state[:, block] == mask_id
            log_prob = log_posterior(model, prompt, state, masked, cache=kept)
            keep = most_confident(log_prob, masked, tokens_per_step)
            state[keep] = log_prob[keep[masked]].argmax(dim=1)
    return state
