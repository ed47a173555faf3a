"""DAM with the adjoint by enumeration, ã(y; X_1) = Σ_z p^base(z | y) e^{-g(z)+g(X_1)} (arXiv 2602.07132).

    u*(y | x) = u^base(y | x) E[ã(y; X_1)],      Q^base(y | x) ã(y; X_1) = Q*(y | x) e^{g(X_1) - V(x)},
    L_x = - (1/K) Σ_k e^{g(X^(k)) - V(x)} mean_{i∈M(x)} Σ_v p*(v | x, i) log p_θ(v | x, i),

with g = -r/α and e^{-V(x)} = E^base[e^{-g(X_1)} | x]. Every y gets its exact value V(y), but X_1 comes from the policy,
not from p*: the factor e^{g(X_1) - V(x)} has mean 1 under p* only, and a heavy tail where rewards are low. It is common
to all terms of a state x, so the minimiser stays Q*. Needs all values V, hence an enumerated task.
"""

import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.ctmc import exact
from pipeline.objectives.context import LossContext
from pipeline.objectives.targets import Rollouts, Targets, targets_of_this_round
from pipeline.samplers.enumeration import table_indices
from pipeline.samplers.posterior import cross_entropy, log_posterior, scatter
from pipeline.settings.algorithms import DamAnalytic
from pipeline.training.replay_buffer import Batch


def make_targets(rollouts: Rollouts, settings: DamAnalytic) -> Targets:
    """The weight of a completion is g(X_1) = -r/α; e^{g - V(x)} is a number also where e^g and e^{-V} overflow."""
    return targets_of_this_round(rollouts, -rollouts.reward / settings.alpha)


def loss(policy: nn.Module, batch: Batch, context: LossContext[DamAnalytic]) -> Tensor:
    """L_x of each state, [n]."""
    problem, masked = context.problem, batch.state == context.mask_id
    base, reward = (torch.from_numpy(table).to(context.device) for table in (problem.base, problem.reward))
    log_base, cost = base.log(), -reward / context.algorithm.alpha
    rows = table_indices(batch.state, context.values, context.mask_id)
    optimum = exact.optimal_posteriors(log_base, cost)[rows].exp().to(batch.weight)
    value = scatter(exact.values(log_base, cost)[rows].to(batch.weight), masked).sum(dim=1) / masked.sum(dim=1)
    log_prob = log_posterior(policy, batch.prompt, batch.state, masked)[:, context.values]
    return (batch.weight - value[:, None]).exp().mean(dim=1) * cross_entropy(optimum, log_prob, masked)


PLUGIN = Algorithm(
    paper="Discrete Adjoint Matching, analytic adjoint, arXiv 2602.07132",
    settings=DamAnalytic,
    make_targets=make_targets,
    replay=batches_of("starting_states"),
    loss=loss,
)
