"""What diffu-GRPO, coupled-GRPO and AGRPO share: advantages, and the clipped surrogate with a KL penalty.

    ρ = e^{l - l_old},      L = - [min(ρ A, clip(ρ, 1 ± ε) A) - β (e^{l_ref - l} - (l_ref - l) - 1)].

The methods differ in l, which stands for the log-likelihood of a completion; that of a masked-diffusion model has no
closed form.
"""

from collections.abc import Callable, Collection

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.ctmc.losses import bounded_ratio, clipped_surrogate, k3_kl
from pipeline.objectives.context import LossContext
from pipeline.objectives.targets import Rollouts, Targets, targets_of_this_round
from pipeline.settings.algorithms import Surrogate
from pipeline.training.replay_buffer import Batch


def centred_rewards(rollouts: Rollouts) -> Float[Tensor, "g K"]:
    """A_k = R_k - (1/K) Σ_j R_j, without division by the standard deviation."""
    reward = rollouts.reward
    return reward - reward.mean(dim=1, keepdim=True)


def advantage_targets(rollouts: Rollouts, settings: Surrogate) -> Targets:
    """The weight of a completion is its advantage A_k."""
    return targets_of_this_round(rollouts, centred_rewards(rollouts))


def surrogate_loss(
    policy: nn.Module,
    log_prob: Callable[[nn.Module], Tensor],
    advantage: Tensor,
    context: LossContext[Surrogate],
    *,
    weighted_penalty: bool = False,
) -> Tensor:
    """L at every entry of l. The base is not asked where β is 0.

    Args:
        log_prob: model -> l, the same masks and noise for every model.
        advantage: A, of a shape that broadcasts to that of l.
        weighted_penalty: multiply the penalty by ρ. If l is exact, its mean over samples of p_old is then
            KL(p ‖ p_ref), and so is the gradient. Without ρ the gradient at p = p_old is that of KL(p_ref ‖ p).
    """
    new = log_prob(policy)
    with torch.no_grad():
        old = log_prob(context.frozen["behavior"])
        reference = log_prob(context.frozen["base"]) if context.algorithm.beta else None
    surrogate = clipped_surrogate(new - old, advantage, context.algorithm.epsilon)
    if reference is None:
        return -surrogate
    weight = bounded_ratio(new - old) if weighted_penalty else 1.0
    return context.algorithm.beta * weight * k3_kl(new, reference) - surrogate


def group_loss(
    policy: nn.Module, log_prob: Callable[[nn.Module], Tensor], batch: Batch, context: LossContext[Surrogate]
) -> Float[Tensor, " n"]:
    """L of each group: `surrogate_loss` of its tokens, [n, K, L], and its `mean_to_the_end`."""
    per_token = surrogate_loss(policy, log_prob, batch.weight[:, :, None], context)
    return mean_to_the_end(per_token, batch.tokens, batch.state == context.mask_id, context.end_ids)


def mean_to_the_end(
    value: Float[Tensor, "n K L"], tokens: Int[Tensor, "n K L"], masked: Bool[Tensor, "n L"], end_ids: Collection[int]
) -> Float[Tensor, " n"]:
    """The mean over those tokens of a group's completions that were masked when they started, of each completion up to
    and with its first end token; 0 if there are none."""
    ends = torch.isin(tokens, torch.tensor(sorted(end_ids), dtype=tokens.dtype, device=tokens.device))
    counted = (ends.cumsum(dim=2) - ends.long() == 0) & masked[:, None]
    return (value * counted).sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1)
