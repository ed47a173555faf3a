"""LLaDA's decoding with low-confidence remasking (arXiv 2502.09992): for evaluation only.

Every masked position proposes its most probable token; the k proposals of highest probability are kept, the
others are masked again. The choice of positions depends on the tokens, so no law is available for rollouts.
"""

import math

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pipeline.samplers.posterior import most_confident, read


@torch.no_grad()
def decode(
    model: nn.Module, prompt: Int[Tensor, "n P"], length: int, *, mask_id: int, tokens_per_step: int = 1
) -> Int[Tensor, "n L"]:
    """Greedy decoding (temperature 0) of `length` answer tokens in ⌈length / tokens_per_step⌉ steps."""
    state = torch.full((prompt.shape[0], length), mask_id, device=prompt.device)
    for _ in range(math.ceil(length / tokens_per_step)):
        masked = state == mask_id
        log_prob = read(model, prompt, state, masked)
        keep = most_confident(log_prob, masked, tokens_per_step)
        state[keep] = log_prob[keep[masked]].argmax(dim=1)
    return state
