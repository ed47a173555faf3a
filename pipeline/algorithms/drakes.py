"""DRAKES: reward back-propagation through Gumbel-softmax samples (arXiv 2410.13643).

From the empty answer, each step reveals a masked position i by o_i = softmax((log p_θ(· | x_s, i) + G)/`softness`),
with Gumbel noise G, made one-hot with a straight-through gradient, and

    L = - r(o_1, …, o_L) + α Σ_s (1/|M_s|) Σ_{i∈M_s} Σ_v [p_θ log(p_θ/p^base) - p_θ + p^base](v | x_s, i).

The gradient also flows through the states: log p(v | x_s, i) = Σ_u o_j(u) log p(v | x_j = u, i), with j the other
position. So it needs every posterior, and a reward that is differentiable in one-hot rows, here Σ_ab o_1(a) o_2(b)
r(a, b): an enumerated task of two tokens.

Checked against the authors' code (github.com/ChenyuWang-Monica/DRAKES, commit 91d7a0e, drakes_dna): Gumbel noise, the
straight-through answer, the gradient through states, the terms of the penalty. Differences: the states of their last 50
of 128 steps are relaxed, here all are one-hot; before those 50 no gradient flows; their softness is 1. Their penalty
weighs a position by what it already shows, so it is 0 in one-hot states and positive only in relaxed ones; and it is
a sum over steps without their length, so that their α = 0.001 belongs to no p*. Here it is the KL of the paths.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.objectives.context import LossContext
from pipeline.objectives.targets import Rollouts, Targets, targets_of_this_round
from pipeline.runtime.random_streams import Stream, uniforms
from pipeline.samplers.enumeration import all_posteriors
from pipeline.settings.algorithms import Drakes
from pipeline.training.replay_buffer import Batch


def make_targets(rollouts: Rollouts, settings: Drakes) -> Targets:
    """Rollouts serve the diagnostics only: the loss samples its own answers."""
    return targets_of_this_round(rollouts, torch.ones_like(rollouts.reward))


def loss(policy: nn.Module, batch: Batch, context: LossContext[Drakes]) -> Tensor:
    """L of one sampled answer for each row, [n]."""
    settings, answer, count = context.algorithm, batch.prompt.shape[1], len(context.values)
    known = (batch.prompt[0], context.values, context.mask_id)
    table = all_posteriors(policy, *known)
    with torch.no_grad():
        base = all_posteriors(context.frozen["base"], *known)
    order = batch.noise[:, answer:-1].argsort(dim=1).argsort(dim=1)
    shown = one_hot(torch.full_like(batch.state, count), count + 1).to(table)
    penalty = table.new_zeros(len(shown))
    for step in range(shown.shape[1]):
        masked, reveal = order >= step, order == step
        log_prob, log_base = (torch.einsum("niu,iuv->niv", shown.flip(1), one) for one in (table, base))
        divergence = (log_prob.exp() * (log_prob - log_base) - log_prob.exp() + log_base.exp()).sum(dim=2)
        penalty = penalty + (divergence * masked).sum(dim=1) / masked.sum(dim=1)
        drawn = _straight_through(log_prob[reveal], settings.softness, _uniforms(batch, step, log_prob))
        drawn = torch.nn.functional.pad(drawn, (0, 1))
        shown = torch.where(reveal[..., None], drawn[:, None], shown)
    reward = torch.from_numpy(context.problem.reward).to(table)
    return settings.alpha * penalty - torch.einsum("na,ab,nb->n", shown[:, 0, :-1], reward, shown[:, 1, :-1])


def _uniforms(batch: Batch, step: int, like: Tensor) -> Tensor:
    """A row of M uniforms for each row of the batch: a function of that row's noise and the step."""
    rows = [(int(value * 2**24), step, 0) for value in batch.noise[:, -1].tolist()]
    return uniforms(0, Stream.REPLAY, 0, rows, like.shape[-1]).to(like)


def _straight_through(log_prob: Tensor, softness: float, uniform: Tensor) -> Tensor:
    """A one-hot sample of p whose gradient is that of its Gumbel-softmax relaxation, [s, M]."""
    uniform = uniform.clamp(1e-9, 1 - 1e-7)
    soft = ((log_prob - (-uniform.log()).log()) / softness).softmax(dim=1)
    hard = one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft)
    return hard + soft - soft.detach()


PLUGIN = Algorithm(
    paper="DRAKES, arXiv 2410.13643",
    settings=Drakes,
    make_targets=make_targets,
    replay=batches_of("starting_states"),
    loss=loss,
)
