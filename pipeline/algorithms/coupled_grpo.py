"""coupled-GRPO, the method of DiffuCoder (arXiv 2506.20639).

A mask m_i ~ Bern(t), t ~ U(low, high), hides a part of a completion o, and its complement ¬m the rest: each token is
predicted under one of them. M^L is the completion as it starts, by default all masked; tokens that are shown there are
neither masked nor predicted:

    l_i = ½ [log p(o_i | M^L) + (m_i/t) log p(o_i | o with m masked) + ((1-m_i)/(1-t)) log p(o_i | o with ¬m masked)],
    A_k = R_k - mean_{j≠k} R_j,      ρ = e^{l - l_old},
    L = - mean_{k, i ≤ end} [min(ρ A, clip(ρ, 1 ± ε) A) - β k3(l, l_ref)].

New, old and reference policies and the G completions of a group share the mask. The mean runs over the tokens of a
group, of each completion up to and with its first end token.

Checked against copies of the authors' code (github.com/apple/ml-diffucoder): t in [0.2, 0.8], both factors, which are
not normalised, leave-one-out advantages without division by the standard deviation, the stop at the first end token.
Three differences: they draw one t for a batch, here each group has its own; their token mean is over a micro-batch; and
their recipe moves l_ref towards the policy every 64 updates (TRL's `sync_ref_model`), here it stays the base's.
"""

import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.objectives.context import LossContext
from pipeline.objectives.policy_gradient import centred_rewards, group_loss
from pipeline.objectives.targets import Rollouts, Targets, targets_of_this_round
from pipeline.samplers.posterior import completion_log_prob
from pipeline.settings.algorithms import CoupledGrpo
from pipeline.training.replay_buffer import Batch


def make_targets(rollouts: Rollouts, settings: CoupledGrpo) -> Targets:
    """The weight of a completion is its leave-one-out advantage, A_k = (R_k - mean R) · K/(K-1)."""
    count = rollouts.settings.rollout.completions
    return targets_of_this_round(rollouts, centred_rewards(rollouts) * (count / (count - 1)))


def loss(policy: nn.Module, batch: Batch, context: LossContext[CoupledGrpo]) -> Tensor:
    """L of each group, [n]."""

    def log_prob(model: nn.Module) -> Tensor:
        return coupled_log_prob(model, batch, context.algorithm, context.mask_id)

    return group_loss(policy, log_prob, batch, context)


def coupled_log_prob(model: nn.Module, batch: Batch, settings: CoupledGrpo, mask_id: int) -> Tensor:
    """l_i of every completion, [n, K, L]."""
    t = settings.low + (settings.high - settings.low) * batch.noise[:, -1:]
    masked, free = batch.noise[:, batch.prompt.shape[1] : -1] < t, batch.state == mask_id
    whole = completion_log_prob(model, batch.prompt, batch.state, batch.tokens, free)
    part, rest = (_denoised(model, batch, hidden & free, mask_id) for hidden in (masked, ~masked))
    return (whole + part / t[:, :, None] + rest / (1 - t[:, :, None])) / 2


def _denoised(model: nn.Module, batch: Batch, hidden: Tensor, mask_id: int) -> Tensor:
    """log p(o_i | o with the hidden positions masked) there, 0 elsewhere, [n, K, L]."""
    count = batch.tokens.shape[1]
    state = torch.where(hidden[:, None], mask_id, batch.tokens).flatten(0, 1)
    prompt, tokens = batch.prompt.repeat_interleave(count, 0), batch.tokens.flatten(0, 1)[:, None]
    positions = hidden.repeat_interleave(count, 0)
    return completion_log_prob(model, prompt, state, tokens, positions).view(batch.tokens.shape)


PLUGIN = Algorithm(
    paper="coupled-GRPO: DiffuCoder, arXiv 2506.20639",
    settings=CoupledGrpo,
    make_targets=make_targets,
    replay=batches_of("starting_states"),
    loss=loss,
)
