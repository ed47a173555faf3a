"""AGRPO: policy gradients of single denoising steps (arXiv 2510.04019).

A completion k and one of its steps s are drawn uniformly; the step's log-probability is exact:

    l = Σ_{i∈S_s} log p_θ(x_i | x_s, i),   A_k = R_k - mean_G R,   ρ = e^{l - l_old},
    L = - [min(ρ A, clip(ρ, 1 ± ε) A) - β ρ (e^{l_ref - l} - (l_ref - l) - 1)].

At the round's first update, with β = 0, the expected gradient is therefore (1 - 1/K) ∇E[R] over the number of steps. A
block cache and a `rollout.temperature` other than 1 are refused: l would be that of another law than the one sampled.

Checked against the author's code (github.com/probablyabot/agrpo, commits 837b292 and 98f1182): the steps' exact
log-probabilities, centred rewards, clipping, the penalty times ρ, β = 0. Differences: the author makes one update on
each batch of new rollouts, so that ε = 0.2 is never reached; here there are `train.updates`. The author's ratio, clip
and penalty are those of each token, here those of a step. The author takes 24 steps of a completion, more often where
the entropy is high (and reweighted), none after its last token; here one is drawn uniformly from all. The author draws
at temperature 0.6 with top-k and top-p, and l takes that into account.
"""

from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, batches_of
from pipeline.objectives.context import LossContext
from pipeline.objectives.policy_gradient import advantage_targets, surrogate_loss
from pipeline.samplers.posterior import completion_log_prob
from pipeline.settings.algorithms import Agrpo
from pipeline.training.replay_buffer import Batch


def loss(policy: nn.Module, batch: Batch, context: LossContext[Agrpo]) -> Tensor:
    """L of each step, [n]."""

    def log_prob(model: nn.Module) -> Tensor:
        return step_log_prob(model, batch)

    return surrogate_loss(policy, log_prob, batch.weight[:, 0], context, weighted_penalty=True)


def step_log_prob(model: nn.Module, batch: Batch) -> Tensor:
    """l of each step, [n]."""
    log_prob = completion_log_prob(model, batch.prompt, batch.state, batch.tokens, batch.read)
    return (log_prob * batch.loss_positions).sum(dim=(1, 2))


PLUGIN = Algorithm(
    paper="AGRPO, arXiv 2510.04019",
    settings=Agrpo,
    make_targets=advantage_targets,
    replay=batches_of("path_states"),
    loss=loss,
)
