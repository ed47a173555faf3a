"""Discrete Tilt Matching (arXiv 2604.18739): the teacher's posterior, tilted by a step h of the reward, state by state.

A round is a phase: its teacher is the policy at its start, which also draws the rollouts. At a state x, re-masked from
a rollout X with the reward r ≥ 0,

    q(v | x, i) = c · p_teacher(v | x, i) + 1[v = X_i] (e^{h r} - c),
    L_x = - mean_{i∈M(x)} Σ_v q(v | x, i) log p_θ(v | x, i)

with c = 1. The target is not normalised: its mass is e^{h r}. Weights are not normalised within a group, and the base
is not used. The tilt of round k is Σ_{j≤k} h, which ends at 1/α (the last h is shortened). Optimiser and learning rate
start anew in every phase. Where rollouts go block by block, so do the states: all later blocks masked, the active one
in part, and the mean runs over the active block's masked positions. Teacher and policy are read at temperature 1 and
without a block cache, also where rollouts have another temperature or a cache: the optimum is then p_teacher + p̃
(Ẽ[e^{h r} | X_i = v] - 1) with p̃ and Ẽ those of the rollouts, which is the tilt of neither law unless they agree.

Checked against the authors' code (github.com/yuyuanchen0/dtm, commit 29b4f02): target, c, clamping of rewards at 0,
states, positions, phases, rollouts from the teacher, restarts; `train.ema` with its value for Countdown (0.95) saves
the moving average, from which the next phase starts. Two differences: the authors replace a part of the buffer every
few updates, while a round here draws all its rollouts first; and here the learning rate does not fall within a phase.
"""

import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.errors import PipelineError
from pipeline.objectives.context import LossContext
from pipeline.objectives.targets import Rollouts, Targets, Weights, column, targets_from_weights
from pipeline.objectives.weighted_cross_entropy import cross_entropy_with_control_variate
from pipeline.settings.algorithms import Dtm
from pipeline.storage.parquet import TARGETS
from pipeline.training.replay_buffer import Batch

LARGEST = 40.0
"""The largest logarithm of a weight: a gradient's norm sums squares, and those of e^40 are numbers in float32."""


def make_targets(rollouts: Rollouts, settings: Dtm) -> Targets:
    """The weight of a rollout is e^{h r}, with 0 for a reward below 0; the report gives their share.

    Raises:
        PipelineError: if the largest of them is more than e^LARGEST.
    """
    spent = rollouts.spent
    taken = min(settings.step, max(0.0, 1 / settings.alpha - spent))
    reward = column(rollouts.table, "reward")
    log_weight = taken * reward.clamp(min=0)
    if (largest := float(log_weight.max())) > LARGEST:
        most = taken * LARGEST / largest
        raise PipelineError(f"algorithm.step {settings.step:g}: e^(step · reward) overflows; take at most {most:.2g}")
    below = float((reward < 0).float().mean())
    report = {"inverse_alpha_step": taken, "inverse_alpha_total": spent + taken, "rewards_below_0": below}
    step = torch.full_like(log_weight, taken)
    weights = Weights(log_weight.exp(), step=step, log_weight=log_weight, spent=spent + taken, report=report)
    return targets_from_weights(rollouts, TARGETS.empty_table(), weights)


def loss(policy: nn.Module, batch: Batch, context: LossContext[Dtm]) -> Tensor:
    """L_x of each state, [n]."""
    return cross_entropy_with_control_variate(policy, batch, context.mask_id, context.frozen["behavior"])


PLUGIN = Algorithm(
    paper="Discrete Tilt Matching, arXiv 2604.18739",
    settings=Dtm,
    make_targets=make_targets,
    replay=batches_of("weighted_completions"),
    loss=loss,
)
