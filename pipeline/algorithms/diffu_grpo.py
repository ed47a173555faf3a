"""diffu-GRPO, the method of d1 (Zhao et al. 2025, arXiv 2504.12216).

    l_i(θ; q̃) = log p_θ(o_i | [q̃, M^L], i),      A_k = R_k - mean_G R,      ρ = e^{l - l_old},
    L = - mean_{k,i} [min(ρ A, clip(ρ, 1 ± ε) A) - β (e^{l_ref - l} - (l_ref - l) - 1)].

q̃ is the prompt with each token masked with probability `prompt_mask`; the completion is masked entirely, so the
likelihood is that of one step. The same q̃ serves the new, old and reference policies of a batch, and another one
is drawn for every optimiser step. G is `rollout.completions`, the inner iterations are `train.updates`.
"""

from types import SimpleNamespace

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Round
from pipeline.algorithms.targets import Labels, Rollouts, centred_rewards, weighted
from pipeline.ctmc.losses import clipped_surrogate, k3_kl
from pipeline.samplers.posterior import completion_log_prob
from pipeline.settings.algorithms import DiffuGrpo
from pipeline.text.tokenizer import PADDING
from pipeline.training.replay_buffer import Batch, Replay


def label(rollouts: Rollouts, run: SimpleNamespace) -> Labels:
    """The weight of a completion is its advantage A_k."""
    return weighted(rollouts, run, centred_rewards(rollouts, run))


def replay(targets: pa.Table, run: SimpleNamespace, mask_id: int) -> Replay:
    """A batch holds whole groups."""
    return Replay.of_targets(targets, run.rollout.completions, mask_id, "reciprocal", "all")


def loss(policy: nn.Module, batch: Batch, around: Round) -> Tensor:
    """L of each group, [n]."""
    settings = around.settings.algorithm
    new = one_step_log_prob(policy, batch, around)
    with torch.no_grad():
        old, reference = (one_step_log_prob(model, batch, around) for model in (around.behavior(), around.base()))
    surrogate = clipped_surrogate(new - old, batch.weight[:, :, None], settings.clip)
    return -(surrogate - settings.beta * k3_kl(new, reference)).mean(dim=(1, 2))


def one_step_log_prob(model: nn.Module, batch: Batch, around: Round) -> Tensor:
    """l_i of every completion, [n, K, L]; q̃ is that of the batch's rows, the same for every model."""
    mask_id, answer = around.mask_id, batch.prompt.shape[1]
    hidden = (batch.noise[:, :answer] < around.settings.algorithm.prompt_mask) & (batch.prompt != PADDING)
    prompt, empty = torch.where(hidden, mask_id, batch.prompt), torch.full_like(batch.state, mask_id)
    return completion_log_prob(model, prompt, empty, batch.tokens, mask_id)


PLUGIN = Algorithm(paper="diffu-GRPO: d1, arXiv 2504.12216", settings=DiffuGrpo, label=label, replay=replay, loss=loss)
