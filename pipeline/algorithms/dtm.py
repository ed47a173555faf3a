"""Discrete Tilt Matching (arXiv 2604.18739): unmasking posteriors matched state by state under an annealed tilt.

Round k tilts the policy before it, p_k ∝ p_{k-1} e^{r/α_k}, with 1/α_k as large as the ESS allows and Σ_k 1/α_k = 1/α.
From a state x, K completions of p_{k-1} weigh W_k = K softmax_k(r/α_k): no likelihood is needed. The loss

    L_x = mean_{i∈M(x)} { - (1/K) Σ_k (W_k - 1) log p_θ(X^(k)_i | x, i) - Σ_v p_{k-1}(v | x, i) log p_θ(v | x, i) }

is a weighted cross-entropy of explicit minimiser, the tilted posterior, with 1[X_i = v] - p_{k-1}(v | x, i) as control
variate. Without `control_variate` it is - (1/K) Σ_k W_k log p_θ.

Chosen here, where the abstract leaves it open: the states are re-masked answers of p_{k-1} (`branch: reciprocal`);
all masked positions are matched, so the control variate has mean zero as far as p_{k-1} agrees on the orders in which
tokens are revealed; its coefficient is 1; the tilt's schedule is that of the annealed DAM.
"""

from types import SimpleNamespace

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Round
from pipeline.algorithms.targets import Labels, Rollouts, assemble, column, next_step
from pipeline.algorithms.weighted_cross_entropy import controlled, matched
from pipeline.ctmc.weights import log_weights, self_normalized
from pipeline.settings.algorithms import Dtm
from pipeline.storage.parquet import TARGETS
from pipeline.training.replay_buffer import Batch, Replay


def label(rollouts: Rollouts, run: SimpleNamespace) -> Labels:
    """W = K softmax(r/α_k), with 1/α_k from the ESS of this round's groups."""
    reward = column(rollouts.table, "reward").view(-1, run.rollout.completions)
    before = 0.0 if rollouts.previous is None else rollouts.previous.column("tilt_after")[-1].as_py()
    step = next_step(torch.zeros_like(reward), reward, before, run.algorithm)
    log_weight = log_weights(torch.zeros_like(reward), reward, step)
    return assemble(
        rollouts,
        run,
        older=TARGETS.empty_table(),
        log_ratio=torch.zeros(reward.numel(), dtype=torch.float64),
        tilt_before=torch.full((reward.numel(),), before, dtype=torch.float64),
        tilt_after=before + step,
        log_weight=log_weight,
        weight=self_normalized(log_weight),
    )


def replay(targets: pa.Table, run: SimpleNamespace, mask_id: int) -> Replay:
    """States with all their completions."""
    return Replay.of_targets(targets, run.rollout.completions, mask_id, "reciprocal", "all")


def loss(policy: nn.Module, batch: Batch, around: Round) -> Tensor:
    """L_x of each state, [n]."""
    if around.settings.algorithm.control_variate:
        return controlled(policy, batch, around.mask_id, around.behavior())
    return matched(policy, batch, around.mask_id)


PLUGIN = Algorithm(
    paper="Discrete Tilt Matching, arXiv 2604.18739", settings=Dtm, label=label, replay=replay, loss=loss
)
