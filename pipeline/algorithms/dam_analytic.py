"""DAM with the adjoint by enumeration, ã(y; X_1) = Σ_z p^base(z | y) e^{-g(z)+g(X_1)} (arXiv 2602.07132).

    u*(y | x) = u^base(y | x) E[ã(y; X_1)],      Q^base(y | x) ã(y; X_1) = Q*(y | x) e^{g(X_1) - V(x)},
    L_x = - (1/K) Σ_k e^{g(X^(k)) - V(x)} mean_{i∈M(x)} Σ_v p*(v | x, i) log p_θ(v | x, i).

Every y gets its exact value V(y), but X_1 comes from the policy, not from p*: the factor e^{g(X_1) - V(x)} has mean 1
under p* only, and a heavy tail where rewards are low. It depends on x alone, so the minimiser stays Q*. Needs all
values V, hence an enumerated task.
"""

from types import SimpleNamespace

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Round
from pipeline.algorithms.targets import Labels, Rollouts, column, weighted
from pipeline.ctmc import exact
from pipeline.samplers.enumeration import rows_of
from pipeline.samplers.posterior import cross_entropy, read, scattered
from pipeline.settings.algorithms import DamAnalytic
from pipeline.training.replay_buffer import Batch, Replay


def label(rollouts: Rollouts, run: SimpleNamespace) -> Labels:
    """The weight of a completion is e^{g(X_1)} = e^{-r/α}."""
    cost = -column(rollouts.table, "reward").view(-1, run.rollout.completions) / run.algorithm.alpha
    return weighted(rollouts, run, cost.exp())


def replay(targets: pa.Table, run: SimpleNamespace, mask_id: int) -> Replay:
    """States with all their completions."""
    return Replay.of_targets(targets, run.rollout.completions, mask_id, "reciprocal", "all")


def loss(policy: nn.Module, batch: Batch, around: Round) -> Tensor:
    """L_x of each state, [n]."""
    problem, masked = around.problem, batch.state == around.mask_id
    log_base, reward = (torch.from_numpy(table) for table in (problem.base, problem.reward))
    cost = -reward / around.settings.algorithm.alpha
    rows = rows_of(batch.state, around.values, around.mask_id)
    optimum = exact.optimal_posteriors(log_base.log(), cost)[rows].exp().to(batch.weight)
    value = scattered(exact.values(log_base.log(), cost)[rows].to(batch.weight), masked).sum(dim=1) / masked.sum(dim=1)
    log_prob = read(policy, batch.prompt, batch.state, masked)[:, around.values]
    return batch.weight.mean(dim=1) * (-value).exp() * cross_entropy(optimum, log_prob, masked)


PLUGIN = Algorithm(
    paper="Discrete Adjoint Matching, analytic adjoint, arXiv 2602.07132",
    settings=DamAnalytic,
    label=label,
    replay=replay,
    loss=loss,
)
