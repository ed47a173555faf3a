"""The matching loss of a policy on states with their completions, for pre-training and weighted rows."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.ctmc.losses import matching_loss
from pipeline.objectives.context import LossContext
from pipeline.samplers.posterior import completion_log_prob, cross_entropy, log_posterior, log_prob_of_completions
from pipeline.settings.method import Settings
from pipeline.training.replay_buffer import Batch


def weighted_cross_entropy(
    policy: nn.Module, batch: Batch, context: LossContext[Settings] | None = None
) -> Float[Tensor, " n"]:
    """- (1/K) Σ_k W_k mean_{i∈J_k} log p_θ(X^(k)_i | x, i); at K = 1 and W = 1 LLaDA's pre-training objective."""
    log_prob = completion_log_prob(policy, batch.prompt, batch.state, batch.tokens, batch.read)
    return matching_loss(log_prob, batch.weight, batch.loss_positions)


def cross_entropy_with_control_variate(
    policy: nn.Module, batch: Batch, mask_id: int, behavior: nn.Module, gain: float = 1.0, temperature: float = 1.0
) -> Float[Tensor, " n"]:
    """`weighted_cross_entropy` with γ (W_k - 1) for W_k, plus - mean_i Σ_v p^u(v | x, i) log p_θ(v | x, i).

    The second mean is over all masked positions; for a single completion, over its loss positions, J_1.

    Args:
        behavior, temperature: p^u, which drew the completions.
        gain: γ.
    """
    positions = batch.read if batch.tokens.shape[1] == 1 else batch.state == mask_id
    log_prob = log_posterior(policy, batch.prompt, batch.state, positions)
    with torch.no_grad():
        expected = log_posterior(behavior, batch.prompt, batch.state, positions, temperature).exp()
    of_completions = log_prob_of_completions(log_prob, positions, batch.tokens)
    sampled = matching_loss(of_completions, gain * (batch.weight - 1), batch.loss_positions)
    return sampled + cross_entropy(expected, log_prob, positions)
