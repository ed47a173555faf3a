"""Reward-weighted regression (Peters and Schaal 2007) with an annealed temperature, on re-masked completions.

Round k tilts the policy before it, p_k ∝ p_{k-1} e^{r/α_k}, from K completions of p_{k-1}:

    W_k = K softmax_k(r/α_k)_k,      L = - mean_{i∈M(x)} log p_θ(X_1^(k)_i | x, i),

where x is X_1^(k), drawn by W_k and re-masked.

1/α_k is the largest, up to `largest_step` if that is given, at which the mean effective sample size of the groups whose
rewards differ is at least `min_ess` · K, and Σ_k 1/α_k ≤ 1/α. A row kept from round j was drawn from p_{j-1}, so its
weight in round k is e^{r (1/α_j + … + 1/α_k)}.

The base is not used after round 0. If every round is solved exactly, p_k ∝ p^base e^{r Σ_j 1/α_j}, which is p* once
Σ_j 1/α_j = 1/α. But errors of the rounds add up and are never corrected, and α has no effect before that sum is
reached. Discrete Adjoint Matching has neither defect (`algorithms/dam.py`).
"""

import math

import torch

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.ctmc.weights import largest_step, self_normalized
from pipeline.objectives.targets import Rollouts, Targets, Weights, column, targets_from_weights
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.settings.algorithms import Rwr


def make_targets(rollouts: Rollouts, settings: Rwr) -> Targets:
    """W = K softmax(r · step), with the steps of all rounds since the row was drawn."""
    older, reward = rollouts.window(settings.replay_rounds), rollouts.reward
    spent = rollouts.spent
    largest = min(settings.largest_step or math.inf, max(0.0, 1 / settings.alpha - spent))
    taken = 0.0
    if bool(rollouts.rewards_differ.any()):
        taken = largest_step(lambda step: step * reward, rollouts.rewards_differ, settings.min_ess, largest)
    step = torch.cat([column(older, "step") + taken, torch.full((reward.numel(),), taken, dtype=torch.float64)])
    log_weight = step * torch.cat([column(older, "reward"), reward.flatten()])
    weight = self_normalized(rollouts.in_groups(log_weight)).flatten()
    report = {"inverse_alpha_step": taken, "inverse_alpha_total": spent + taken}
    weights = Weights(weight, step=step, log_weight=log_weight, spent=spent + taken, report=report)
    return targets_from_weights(rollouts, older, weights)


PLUGIN = Algorithm(
    paper="Reward-weighted regression, Peters and Schaal 2007",
    settings=Rwr,
    make_targets=make_targets,
    replay=batches_of("remasked_completions"),
    loss=weighted_cross_entropy,
)
