"""AGRPO: policy gradients of single denoising steps (arXiv 2510.04019).

A completion k and one of its steps s are drawn uniformly; the step's log-probability is exact:

    l = Σ_{i∈S_s} log p_θ(x_i | x_s, i),   A_k = R_k - mean_G R,   ρ = e^{l - l_old},
    L = - [min(ρ A, clip(ρ, 1 ± ε) A) - β k3(l, l_ref)].

So the expected gradient is that of E[R], divided by the number of steps, at the round's first update.
"""

from types import SimpleNamespace

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.algorithms.base import Algorithm, Round
from pipeline.algorithms.targets import Labels, Rollouts, centred_rewards, weighted
from pipeline.ctmc.losses import clipped_surrogate, k3_kl
from pipeline.samplers.posterior import completion_log_prob
from pipeline.settings.algorithms import Agrpo
from pipeline.training.replay_buffer import Batch, Replay


def label(rollouts: Rollouts, run: SimpleNamespace) -> Labels:
    """The weight of a completion is its advantage A_k."""
    return weighted(rollouts, run, centred_rewards(rollouts, run))


def replay(targets: pa.Table, run: SimpleNamespace, mask_id: int) -> Replay:
    """A batch holds single steps."""
    return Replay.of_targets(targets, run.rollout.completions, mask_id, "steps", "first")


def loss(policy: nn.Module, batch: Batch, around: Round) -> Tensor:
    """L of each step, [n]."""
    settings = around.settings.algorithm
    new = step_log_prob(policy, batch, around.mask_id)
    with torch.no_grad():
        old, reference = (step_log_prob(model, batch, around.mask_id) for model in (around.behavior(), around.base()))
    surrogate = clipped_surrogate(new - old, batch.weight[:, 0], settings.clip)
    return -(surrogate - settings.beta * k3_kl(new, reference))


def step_log_prob(model: nn.Module, batch: Batch, mask_id: int) -> Tensor:
    """l of each step, [n]."""
    log_prob = completion_log_prob(model, batch.prompt, batch.state, batch.tokens, mask_id)
    return (log_prob * batch.jump).sum(dim=(1, 2))


PLUGIN = Algorithm(paper="AGRPO, arXiv 2510.04019", settings=Agrpo, label=label, replay=replay, loss=loss)
