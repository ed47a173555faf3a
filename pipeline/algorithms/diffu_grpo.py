"""diffu-GRPO, the method of d1 (Zhao et al. 2025, arXiv 2504.12216).

    l_i(θ; q̃) = log p_θ(o_i | [q̃, M^L], i),      A_k = R_k - mean_G R,      ρ = e^{l - l_old},
    L = - mean_{k, i ≤ end} [min(ρ A, clip(ρ, 1 ± ε) A) - β (e^{l_ref - l} - (l_ref - l) - 1)].

q̃ is the prompt with each token masked with probability `prompt_mask`; the completion is masked as it starts, by default
entirely, so the likelihood is that of one step. The new, old and reference policies of a batch see the same q̃, and
every optimiser step draws another one. G is `rollout.completions`, the inner iterations μ are `train.updates`. The mean
runs over the tokens of a group, of each completion up to and with its first end token.

Checked against forks of the authors' code (github.com/dllm-reasoning/d1; its own trainer was not at hand): likelihood,
advantage, stop at the first end token, ε 0.5, β 0.04, masking 0.15. One difference: their token mean is over a
micro-batch, so it depends on how a batch is cut; here it is over a group.
"""

import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.objectives.context import LossContext
from pipeline.objectives.policy_gradient import advantage_targets, group_loss
from pipeline.samplers.posterior import completion_log_prob
from pipeline.settings.algorithms import DiffuGrpo
from pipeline.text.tokenizer import PADDING
from pipeline.training.replay_buffer import Batch


def loss(policy: nn.Module, batch: Batch, context: LossContext[DiffuGrpo]) -> Tensor:
    """L of each group, [n]."""

    def log_prob(model: nn.Module) -> Tensor:
        return one_step_log_prob(model, batch, context.algorithm.prompt_mask, context.mask_id)

    return group_loss(policy, log_prob, batch, context)


def one_step_log_prob(model: nn.Module, batch: Batch, prompt_mask: float, mask_id: int) -> Tensor:
    """l_i of every completion, [n, K, L]; q̃ belongs to the batch's rows and is the same for every model."""
    hidden = (batch.noise[:, : batch.prompt.shape[1]] < prompt_mask) & (batch.prompt != PADDING)
    prompt = torch.where(hidden, mask_id, batch.prompt)
    return completion_log_prob(model, prompt, batch.state, batch.tokens, batch.state == mask_id)


PLUGIN = Algorithm(
    paper="diffu-GRPO: d1, arXiv 2504.12216",
    settings=DiffuGrpo,
    make_targets=advantage_targets,
    replay=batches_of("starting_states"),
    loss=loss,
)
