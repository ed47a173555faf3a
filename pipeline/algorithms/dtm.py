"""Discrete Tilt Matching (arXiv 2604.18739): unmasking posteriors matched state by state under an annealed tilt.

Round k tilts the policy before it, p_k ∝ p_{k-1} e^{r/α_k}, with 1/α_k as large as the ESS allows and Σ_k 1/α_k = 1/α.
From a state x, K completions of p_{k-1} weigh W_k = K softmax_k(r/α_k): no likelihood is needed. The loss

    L_x = mean_{i∈M(x)} { - (1/K) Σ_k (W_k - 1) log p_θ(X^(k)_i | x, i) - Σ_v p_{k-1}(v | x, i) log p_θ(v | x, i) }

is a weighted cross-entropy of explicit minimiser, the tilted posterior, with 1[X_i = v] - p_{k-1}(v | x, i) as control
variate. Without `control_variate` it is - (1/K) Σ_k W_k log p_θ.

Chosen here, where the abstract leaves it open: the states are re-masked answers of p_{k-1} (`start: remasked`);
all masked positions are matched, so the control variate has mean zero as far as p_{k-1} agrees on the orders in which
tokens are revealed; its coefficient is 1; the tilt's schedule is that of the annealed DAM.
"""

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm
from pipeline.ctmc.weights import log_weights, self_normalized
from pipeline.objectives.annealing import next_step
from pipeline.objectives.context import LossContext
from pipeline.objectives.targets import Rollouts, Targets, targets_from_weights
from pipeline.objectives.weighted_cross_entropy import cross_entropy_with_control_variate, weighted_cross_entropy
from pipeline.settings.algorithms import Dtm
from pipeline.settings.sections import Rollout
from pipeline.storage.parquet import TARGETS
from pipeline.training.replay_buffer import Batch, Replay


def make_targets(rollouts: Rollouts, settings: Dtm) -> Targets:
    """W = K softmax(r/α_k), with 1/α_k from the ESS of this round's groups."""
    reward = rollouts.reward
    ratio = torch.zeros_like(reward)
    before = 0.0 if rollouts.previous is None else rollouts.previous.column("tilt_after")[-1].as_py()
    step = next_step(ratio, reward, before, settings)
    log_weight = log_weights(ratio, reward, step)
    return targets_from_weights(
        rollouts,
        older=TARGETS.empty_table(),
        log_ratio=ratio.flatten(),
        tilt_before=torch.full((reward.numel(),), before, dtype=torch.float64),
        tilt_after=before + step,
        log_weight=log_weight,
        weight=self_normalized(log_weight),
    )


def replay(targets: pa.Table, rollout: Rollout, settings: Dtm, mask_id: int) -> Replay:
    """States with all their completions."""
    return Replay.of_targets(targets, rollout.completions, mask_id, "starting_states")


def loss(policy: nn.Module, batch: Batch, context: LossContext[Dtm]) -> Tensor:
    """L_x of each state, [n]."""
    if context.algorithm.control_variate:
        return cross_entropy_with_control_variate(policy, batch, context.mask_id, context.frozen["behavior"])
    return weighted_cross_entropy(policy, batch, context.mask_id)


PLUGIN = Algorithm(
    paper="Discrete Tilt Matching, arXiv 2604.18739",
    settings=Dtm,
    make_targets=make_targets,
    replay=replay,
    loss=loss,
)
