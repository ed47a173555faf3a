"""log p(v | x, i) ∝ θ[i, x_{-i}, v]: one logit per position, rest of the answer and value.

It represents any posteriors, so on two tokens the base is exact and the optimum can be reached. It ignores the
prompt. The table grows as V^L: for answers of a few tokens only.
"""

import math
from functools import partial
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.base import Model, Output, SmallModule, load_module, save_module
from pipeline.settings.sections import ModelSection

LARGEST = 2**28
"""The most numbers of a table: 1 GiB in fp32."""
NEVER = -40.0
"""The logit of a token to which installed posteriors give no probability."""


class Tabular(SmallModule):
    kind = "tabular"
    powers: Tensor

    def __init__(self, vocabulary: int, mask_id: int, length: int):
        super().__init__()
        self.sizes = {"vocabulary": vocabulary, "mask_id": mask_id, "length": length}
        self.table = nn.Parameter(torch.zeros(length, vocabulary ** (length - 1), vocabulary))
        self.register_buffer("powers", _powers(vocabulary, length), persistent=False)

    def forward(
        self, input_ids: Int[Tensor, "n T"], select: Bool[Tensor, "n T"], tokens: Int[Tensor, "s K"] | None = None
    ) -> Output:
        """Logits at the selected positions, all of which must lie in the answer; -inf for [MASK]."""
        length = self.sizes["length"]
        row, position = select[:, -length:].nonzero(as_tuple=True)
        rest = (input_ids[row, -length:] * self.powers[position]).sum(dim=1)
        return Output.from_logits(self.table[position, rest], self.sizes["mask_id"], tokens)


def _powers(vocabulary: int, length: int) -> Int[Tensor, "L L"]:
    """[i, j]: the factor of x_j in the table index of x_{-i}, which is V^0, V^1, … over j ≠ i, and 0 for j = i."""
    places = [[0 if j == i else vocabulary ** (j - (j > i)) for j in range(length)] for i in range(length)]
    return torch.tensor(places)


def create(settings: ModelSection, vocabulary: int, mask_id: int, length: int) -> Tabular:
    """PipelineError for a table of more than `LARGEST` numbers."""
    if length * math.log(vocabulary) + math.log(length) > math.log(LARGEST):
        table = f"{length} tokens of {vocabulary} symbols need {length} · {vocabulary}^{length} numbers"
        raise PipelineError(f"model.name: tabular is for answers of a few tokens; {table}: take another model")
    return Tabular(vocabulary, mask_id, length)


@torch.no_grad()
def install(model: nn.Module, values: Int[Tensor, " M"], log_posterior: Float[Tensor, "2 S M"]) -> None:
    """θ[i, u, v] = log p(x_i = v | x_j = u), at least `NEVER`; any law where u itself has no probability."""
    table, mask_id = cast(Tabular, model).table, cast(Tabular, model).sizes["mask_id"]
    shown = torch.cat([values, torch.tensor([mask_id])])
    table.fill_(NEVER)
    table[:, shown[:, None], values] = log_posterior.nan_to_num(nan=0.0).clamp(min=NEVER).to(table.dtype)


PLUGIN = Model(create=create, load=partial(load_module, Tabular), save=save_module, install=install)
