"""States of a masked-diffusion trajectory and the reciprocal projection x_1 → x_t."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

REVEALED = -1
"""The `unmask_step` of a position that the starting state already shows."""


def state_before(
    tokens: Int[Tensor, "*n L"], unmask_step: Int[Tensor, "*n L"], step: int | Int[Tensor, "*n 1"], mask_id: int
) -> Int[Tensor, "*n L"]:
    """x_s = where(unmask_step < s, x_1, [MASK]): the state from which step s starts.

    A trajectory is stored as two integer rows: the final `tokens`, and the step at which each position was revealed
    (`REVEALED` if the starting state shows it). They determine every state.
    """
    return torch.where(unmask_step < step, tokens, mask_id)


def remask(num_masked: Int[Tensor, " n"], order_noise: Float[Tensor, "n L"]) -> Bool[Tensor, "n L"]:
    """M ~ uniform over the subsets of {1..L} with |M| = m: the positions hidden by X_1 → X_t.

    p* lies in the reciprocal class of the base, so X_t given X_1 is X_1 with each position hidden with
    probability 1 - t. For t ~ U(0,1) the count |M| is uniform on {0..L} and, given |M| = m, the set is
    uniform; drawing m first (see `stratified_counts`) therefore samples the same law.

    `order_noise` are independent uniforms: the m positions of smallest noise are hidden. Positions with infinite noise,
    such as those that the answer starts with, stay shown if m others are left; L then counts the others.
    """
    return order_noise.argsort(dim=1).argsort(dim=1) < num_masked[:, None]


def block_by_block(
    num_masked: Int[Tensor, " n"],
    order_noise: Float[Tensor, "n L"],
    free: Bool[Tensor, "n L"],
    block: Int[Tensor, "*#n L"],
) -> tuple[Float[Tensor, "n L"], Bool[Tensor, "n L"]]:
    """`order_noise` for `remask`, changed so that what is hidden is what a rollout in blocks has not revealed yet; and
    the positions of the active block.

    The later blocks are hidden, the active one in part, and no earlier one; within a block all sets are equally likely.

    Args:
        free: the positions that can be masked.
        block: the number of each position's block.
    """
    # How many positions a rollout reveals before each one's turn, and how many this state shows.
    before, shown = free.cumsum(dim=1) - free.long(), (free.sum(dim=1) - num_masked)[:, None]
    current = torch.where(free & (before == shown), block, 0).sum(dim=1, keepdim=True)
    active = block == current
    return torch.where(active, order_noise, torch.where(block > current, -1.0, 2.0)), active


def stratified_counts(most: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " n"]:
    """m_b uniform on {1..L_b} for each row, spread evenly over the batch (stratified); L_b = `most` are the positions
    of a row that can be masked.

    |M| = 0 has no loss and is left out. With t integrated out, the weight of the generalised-KL loss (and of LLaDA's
    masked cross-entropy, Σ_i CE_i / (1-t)) given |M| = m is E[1/(1-t) | m] = (L+1)/m: the *mean* over masked positions
    with the constant factor L+1. Hence `losses.matching_loss` needs no time weighting.
    """
    batch = len(most)
    place = torch.arange(batch) + torch.rand(1, generator=generator)
    place = place[torch.randperm(batch, generator=generator)]
    return 1 + (place * (most.double() / batch).float()).long().minimum(most - 1)
