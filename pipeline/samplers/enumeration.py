"""A model's posteriors at every masked state of a two-token answer, in the layout of `ctmc.exact`."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.samplers.posterior import log_posterior


@torch.no_grad()
def posterior_table(
    model: nn.Module, prompt: Int[Tensor, " P"], values: Int[Tensor, " M"], mask_id: int
) -> Float[Tensor, "2 S M"]:
    """`all_posteriors` in float64. The table is in memory; model, prompt and values may be on another device."""
    return all_posteriors(model, prompt, values, mask_id, torch.float64).cpu()


def all_posteriors(
    model: nn.Module,
    prompt: Int[Tensor, " P"],
    values: Int[Tensor, " M"],
    mask_id: int,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "2 S M"]:
    """log p(x_i = v | x_j = u) at [i, u, v] for the M values, u = M for [MASK]; not renormalised over v."""
    states, select = masked_states(values, mask_id)
    log_prob = log_posterior(model, prompt.expand(len(states), -1), states, select, dtype=dtype)
    return log_prob[:, values].view(2, -1, len(values))


def masked_states(values: Int[Tensor, " M"], mask_id: int) -> tuple[Int[Tensor, "s 2"], Bool[Tensor, "s 2"]]:
    """The states x_j = u in the order of the table, s = 2 (M + 1), and the position i that is read of each."""
    shown = torch.cat([values, values.new_tensor([mask_id])])
    states = values.new_full((2, len(shown), 2), mask_id)
    states[0, :, 1] = states[1, :, 0] = shown
    select = torch.zeros_like(states, dtype=torch.bool)
    select[0, :, 0] = select[1, :, 1] = True
    return states.flatten(0, 1), select.flatten(0, 1)


def table_indices(
    state: Int[Tensor, "n 2"], values: Int[Tensor, " M"], mask_id: int
) -> tuple[Int[Tensor, " s"], Int[Tensor, " s"]]:
    """(i, u) of every masked position, row by row: the index of its posterior in a table of `ctmc.exact`."""
    row, position = (state == mask_id).nonzero(as_tuple=True)
    other = state[row, 1 - position]
    rank = (other[:, None] == values).long().argmax(dim=1)
    return position, torch.where(other == mask_id, len(values), rank)
