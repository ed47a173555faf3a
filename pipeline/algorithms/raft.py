"""RAFT: fine-tuning on the best of K completions (Dong et al. 2023, arXiv 2304.06767), also known as expert iteration.

    k* = argmax_k r(X_1^(k)),    L = - mean_{i∈M(x)} log p_θ(X^(k*)_i | x, i),    x = X_1^(k*) re-masked.

Equal best completions share the weight K. It is DAM with `tilt: annealed` and 1/α_k → ∞ in every round: it raises the
reward without a bound and aims at no p*, so `alpha` only says against which p* an enumerated task is judged.
"""

from types import SimpleNamespace

import pyarrow as pa
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Round
from pipeline.algorithms.targets import Labels, Rollouts, column, weighted
from pipeline.algorithms.weighted_cross_entropy import matched
from pipeline.settings.algorithms import Settings
from pipeline.training.replay_buffer import Batch, Replay


def label(rollouts: Rollouts, run: SimpleNamespace) -> Labels:
    """W_k = K 1[r_k = max] / (number of best), with mean 1 in each group."""
    reward = column(rollouts.table, "reward").view(-1, run.rollout.completions)
    best = (reward == reward.amax(dim=1, keepdim=True)).double()
    return weighted(rollouts, run, best / best.mean(dim=1, keepdim=True))


def replay(targets: pa.Table, run: SimpleNamespace, mask_id: int) -> Replay:
    """Completions drawn by their weight, re-masked."""
    return Replay.of_targets(targets, run.rollout.completions, mask_id, "root", "all")


def loss(policy: nn.Module, batch: Batch, around: Round) -> Tensor:
    """L of each state, [n]."""
    return matched(policy, batch, around.mask_id)


PLUGIN = Algorithm(paper="RAFT, arXiv 2304.06767", settings=Settings, label=label, replay=replay, loss=loss)
