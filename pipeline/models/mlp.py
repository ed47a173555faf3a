"""An MLP for answers of a small, fixed length: concatenated embeddings → SiLU layers → L × V logits.

It ignores the prompt.
"""

from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from pipeline.models.base import Model, Output, load_module, save_module
from pipeline.settings.sections import ModelSection

KIND = "mlp"


class Mlp(nn.Module):
    def __init__(self, vocabulary: int, mask_id: int, length: int, hidden_size: int, num_hidden_layers: int):
        super().__init__()
        self.sizes = {
            "vocabulary": vocabulary,
            "mask_id": mask_id,
            "length": length,
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
        }
        self.embed = nn.Embedding(vocabulary, hidden_size)
        widths = [length * hidden_size, *[hidden_size] * num_hidden_layers]
        layers = [
            layer for width, next_width in pairwise(widths) for layer in (nn.Linear(width, next_width), nn.SiLU())
        ]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], length * vocabulary))

    def forward(
        self, input_ids: Int[Tensor, "n T"], select: Bool[Tensor, "n T"], tokens: Int[Tensor, "s K"] | None = None
    ) -> Output:
        """Logits at the selected positions, all of which must lie in the answer; -inf for [MASK]."""
        vocabulary, length = self.sizes["vocabulary"], self.sizes["length"]
        hidden = self.embed(input_ids[:, -length:]).flatten(1)
        logits = self.layers(hidden).view(-1, length, vocabulary)[select[:, -length:]]
        banned = torch.arange(vocabulary, device=logits.device) == self.sizes["mask_id"]
        return Output.from_logits(logits.masked_fill(banned, -torch.inf), tokens)


def create(settings: ModelSection, vocabulary: int, mask_id: int, length: int) -> Mlp:
    """Fresh weights, drawn from PyTorch's global generator."""
    return Mlp(vocabulary, mask_id, length, settings.hidden_size, settings.num_hidden_layers)


def save(model: nn.Module, path: Path) -> None:
    save_module(model, path, KIND, cast(Mlp, model).sizes)


PLUGIN = Model(create=create, load=lambda path: load_module(path, KIND, Mlp), save=save)
