"""The matching loss of a policy on states with their completions: what pre-training, DAM, DTM and RAFT share."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.ctmc.losses import matching_loss
from pipeline.samplers.posterior import completion_log_prob, cross_entropy, of_completions, read
from pipeline.training.replay_buffer import Batch


def matched(policy: nn.Module, batch: Batch, mask_id: int) -> Float[Tensor, " n"]:
    """- (1/K) Σ_k W_k mean_{i∈J_k} log p_θ(X^(k)_i | x, i); at K = 1 and W = 1 LLaDA's pre-training objective."""
    log_prob = completion_log_prob(policy, batch.prompt, batch.state, batch.tokens, mask_id)
    return matching_loss(log_prob, batch.weight, batch.jump)


def controlled(
    policy: nn.Module, batch: Batch, mask_id: int, behavior: nn.Module, gain: float = 1.0, temperature: float = 1.0
) -> Float[Tensor, " n"]:
    """`matched` with γ (W_k - 1) for W_k, plus - mean_{i∈M} Σ_v p^u(v | x, i) log p_θ(v | x, i): a control variate.

    Args:
        behavior, temperature: p^u, which drew the completions.
        gain: γ.
    """
    masked = batch.state == mask_id
    log_posterior = read(policy, batch.prompt, batch.state, masked)
    log_prob = of_completions(log_posterior, masked, batch.tokens)
    with torch.no_grad():
        known = read(behavior, batch.prompt, batch.state, masked, temperature).exp()
    change = gain * (batch.weight - 1)
    return matching_loss(log_prob, change, batch.jump) + cross_entropy(known, log_posterior, masked)
