"""RAFT: fine-tuning on the best of K completions (Dong et al. 2023, arXiv 2304.06767), also known as expert iteration.

    k* = argmax_k r(X_1^(k)),    L = - mean_{i∈M(x)} log p_θ(X^(k*)_i | x, i),    x = X_1^(k*) re-masked.

Equal best completions share the weight K. Rows of the last `replay_rounds` rounds are used together, as in DAM. It is
`rwr` with 1/α_k → ∞ in every round: it raises the reward and aims at no p*. `alpha` only says to which p* the KL of an
enumerated task is reported.

Checked against the authors' code (github.com/OptimalScale/LMFlow, raft_aligner.py at commit 7791f15): the best of K for
each prompt (`local`), however low its reward; training goes on from the last policy and optimiser state; no KL.
Differences: they train on the newest round alone, four times over, here on `replay_rounds` rounds for `train.updates`;
of equal best completions they keep the first; temperature 0.85 and K = 8; next-token loss, also on the prompt. Their
`top`, which ranks completions of all prompts together, is not offered.
"""

import torch

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.objectives.targets import Rollouts, Targets, Weights, column, targets_from_weights
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.settings.algorithms import Raft


def make_targets(rollouts: Rollouts, settings: Raft) -> Targets:
    """W_k = K 1[r_k = max] / (number of best), with mean 1 in each group."""
    older = rollouts.window(settings.replay_rounds)
    best = (rollouts.reward == rollouts.reward.amax(dim=1, keepdim=True)).double()
    weight = torch.cat([column(older, "weight"), (best / best.mean(dim=1, keepdim=True)).flatten()])
    return targets_from_weights(rollouts, older, Weights(weight))


PLUGIN = Algorithm(
    paper="RAFT, arXiv 2304.06767",
    settings=Raft,
    make_targets=make_targets,
    replay=batches_of("remasked_completions"),
    loss=weighted_cross_entropy,
)
