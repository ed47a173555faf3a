"""An MLP for answers of a small, fixed length: concatenated embeddings → SiLU layers → L × V logits.

It ignores the prompt.
"""

from functools import partial
from itertools import pairwise

from jaxtyping import Bool, Int
from torch import Tensor, nn

from pipeline.models.base import Model, Output, SmallModule, load_module, save_module
from pipeline.settings.sections import ModelSection


class Mlp(SmallModule):
    kind = "mlp"

    def __init__(self, vocabulary: int, mask_id: int, length: int, hidden_size: int, num_hidden_layers: int):
        super().__init__()
        self.sizes = {"vocabulary": vocabulary, "mask_id": mask_id, "length": length}
        self.sizes |= {"hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers}
        self.embed = nn.Embedding(vocabulary, hidden_size)
        widths = [length * hidden_size, *[hidden_size] * num_hidden_layers]
        layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], length * vocabulary))

    def forward(
        self, input_ids: Int[Tensor, "n T"], select: Bool[Tensor, "n T"], tokens: Int[Tensor, "s K"] | None = None
    ) -> Output:
        """Logits at the selected positions, all of which must lie in the answer; -inf for [MASK]."""
        length = self.sizes["length"]
        hidden = self.embed(input_ids[:, -length:]).flatten(1)
        logits = self.layers(hidden).view(-1, length, self.sizes["vocabulary"])[select[:, -length:]]
        return Output.from_logits(logits, self.sizes["mask_id"], tokens)


def create(settings: ModelSection, vocabulary: int, mask_id: int, length: int) -> Mlp:
    return Mlp(vocabulary, mask_id, length, settings.hidden_size, settings.num_hidden_layers)


PLUGIN = Model(create=create, load=partial(load_module, Mlp), save=save_module)
