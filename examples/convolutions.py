"""A model of one's own: dilated convolutions over prompt and answer, for any lengths.

    model: {name: examples.convolutions, hidden_size: 64, num_hidden_layers: 4}      # in params.yaml

Layer n sees 2^n positions to both sides. `SmallModule` says what config.json holds, `save_module` and `load_module` do
the rest; a model with files of its own writes these functions itself (`pipeline/models/base.py`).
"""

from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from pipeline.models.base import Model, Output, SmallModule, load_module, save_module
from pipeline.settings.sections import ModelSection


class Convolutions(SmallModule):
    kind = "convolutions"

    def __init__(self, vocabulary: int, mask_id: int, hidden_size: int, num_hidden_layers: int):
        super().__init__()
        self.sizes = {"vocabulary": vocabulary, "mask_id": mask_id}
        self.sizes |= {"hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers}
        self.embed = nn.Embedding(vocabulary, hidden_size)
        reach = [2**number for number in range(num_hidden_layers)]
        self.layers = nn.ModuleList(nn.Conv1d(hidden_size, hidden_size, 3, padding=n, dilation=n) for n in reach)
        self.head = nn.Linear(hidden_size, vocabulary)

    def forward(
        self,
        input_ids: Int[Tensor, "n T"],
        select: Bool[Tensor, "n T"],
        tokens: Int[Tensor, "s K"] | None = None,
        attention_mask: Int[Tensor, "n T"] | None = None,
    ) -> Output:
        """Logits at the selected positions; padding is 0 in every layer, as what lies outside a row."""
        shown = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.embed(input_ids).mT * shown[:, None]
        for layer in self.layers:
            hidden = (hidden + nn.functional.silu(layer(hidden))) * shown[:, None]
        return Output.from_logits(self.head(hidden.mT[select]), self.sizes["mask_id"], tokens)


def create(settings: ModelSection, vocabulary: int, mask_id: int, length: int) -> Convolutions:
    return Convolutions(vocabulary, mask_id, settings.hidden_size, settings.num_hidden_layers)


PLUGIN = Model(create=create, load=partial(load_module, Convolutions), save=save_module)
