"""RAFT: fine-tuning on the best of K completions (Dong et al. 2023, arXiv 2304.06767), also known as expert iteration.

    k* = argmax_k r(X_1^(k)),    L = - mean_{i∈M(x)} log p_θ(X^(k*)_i | x, i),    x = X_1^(k*) re-masked.

Equal best completions share the weight K. Rows of the last `replay_rounds` rounds are used together, as in DAM. It is
`rwr` with 1/α_k → ∞ in every round: it raises the reward without a bound and aims at no p*, so `alpha` only says
against which p* an enumerated task is judged.
"""

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm
from pipeline.objectives.context import LossContext
from pipeline.objectives.targets import Rollouts, Targets, Weights, column, targets_from_weights
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.settings.algorithms import Raft
from pipeline.settings.sections import Rollout
from pipeline.training.replay_buffer import Batch, Replay


def make_targets(rollouts: Rollouts, settings: Raft) -> Targets:
    """W_k = K 1[r_k = max] / (number of best), with mean 1 in each group."""
    older = rollouts.window(settings.replay_rounds)
    best = (rollouts.reward == rollouts.reward.amax(dim=1, keepdim=True)).double()
    weight = torch.cat([column(older, "weight"), (best / best.mean(dim=1, keepdim=True)).flatten()])
    zero = torch.zeros_like(weight)
    return targets_from_weights(rollouts, older, Weights(log_ratio=zero, step=zero, log_weight=zero, weight=weight))


def replay(targets: pa.Table, rollout: Rollout, settings: Raft, mask_id: int) -> Replay:
    """Completions drawn by their weight, re-masked."""
    return Replay.of_targets(targets, rollout, mask_id, "remasked_completions")


def loss(policy: nn.Module, batch: Batch, context: LossContext[Raft]) -> Tensor:
    """L of each state, [n]."""
    return weighted_cross_entropy(policy, batch, context.mask_id)


PLUGIN = Algorithm(paper="RAFT, arXiv 2304.06767", settings=Raft, make_targets=make_targets, replay=replay, loss=loss)
