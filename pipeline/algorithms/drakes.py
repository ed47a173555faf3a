"""DRAKES: reward back-propagation through Gumbel-softmax samples (arXiv 2410.13643).

From the empty answer, each step reveals a masked position i by o_i = softmax((log p_θ(· | x_s, i) + G)/`softness`),
with Gumbel noise G, made one-hot with a straight-through gradient, and

    L = - r(o_1, …, o_L) + α Σ_s (1/|M_s|) Σ_{i∈M_s} Σ_v [p_θ log(p_θ/p^base) - p_θ + p^base](v | x_s, i).

The penalty is the generalised KL of the rates at the *masked* positions (the released code takes the unmasked ones,
where it is 0). Needs a reward that is differentiable in one-hot rows, here r = Σ_ab o_1(a) o_2(b) r(a, b) with the
table of an enumerated task. Models take token ids, so the gradient reaches the logits of a token itself, not those of
later steps that condition on it.
"""

import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.objectives.context import LossContext
from pipeline.objectives.targets import Rollouts, Targets, targets_of_this_round
from pipeline.runtime.random_streams import Stream, uniforms
from pipeline.samplers.posterior import log_posterior, scatter
from pipeline.settings.algorithms import Drakes
from pipeline.training.replay_buffer import Batch


def make_targets(rollouts: Rollouts, settings: Drakes) -> Targets:
    """Rollouts serve the diagnostics only: the loss samples its own answers."""
    return targets_of_this_round(rollouts, torch.ones_like(rollouts.reward))


def loss(policy: nn.Module, batch: Batch, context: LossContext[Drakes]) -> Tensor:
    """L of one sampled answer for each row, [n]."""
    settings, answer = context.algorithm, batch.prompt.shape[1]
    state = torch.full_like(batch.state, context.mask_id)
    order = batch.noise[:, answer:-1].argsort(dim=1).argsort(dim=1)
    chosen = torch.zeros(*state.shape, len(context.values), device=state.device)
    penalty = torch.zeros(len(state), device=state.device)
    for step in range(state.shape[1]):
        masked = state == context.mask_id
        log_prob = log_posterior(policy, batch.prompt, state, masked)[:, context.values]
        with torch.no_grad():
            log_base = log_posterior(context.frozen["base"], batch.prompt, state, masked)[:, context.values]
        divergence = (log_prob.exp() * (log_prob - log_base) - log_prob.exp() + log_base.exp()).sum(dim=1)
        penalty = penalty + scatter(divergence, masked).sum(dim=1) / masked.sum(dim=1)
        reveal = order == step
        one_hot = _straight_through(log_prob[reveal[masked]], settings.softness, _uniforms(batch, step, log_prob))
        chosen = chosen + scatter(one_hot, reveal)
        state = state.masked_scatter(reveal, context.values[one_hot.argmax(dim=1)])
    table = torch.from_numpy(context.problem.reward).to(chosen)
    reward = torch.einsum("na,ab,nb->n", chosen[:, 0], table, chosen[:, 1])
    return settings.alpha * penalty - reward


def _uniforms(batch: Batch, step: int, like: Tensor) -> Tensor:
    """A row of M uniforms for each row of the batch: a function of that row's noise and the step."""
    rows = [(int(value * 2**24), step, 0) for value in batch.noise[:, -1].tolist()]
    return uniforms(0, Stream.REPLAY, 0, rows, like.shape[1]).to(like)


def _straight_through(log_prob: Tensor, softness: float, uniform: Tensor) -> Tensor:
    """A one-hot sample of p whose gradient is that of its Gumbel-softmax relaxation, [s, M]."""
    uniform = uniform.clamp(1e-9, 1 - 1e-7)
    soft = ((log_prob - (-uniform.log()).log()) / softness).softmax(dim=1)
    hard = torch.nn.functional.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft)
    return hard + soft - soft.detach()


PLUGIN = Algorithm(
    paper="DRAKES, arXiv 2410.13643",
    settings=Drakes,
    make_targets=make_targets,
    replay=batches_of("starting_states"),
    loss=loss,
)
