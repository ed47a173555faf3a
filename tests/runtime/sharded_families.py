"""One process of two: gradients of every family with DDP and in shards, compared with those of one process.

Called in both processes that test_distributed.py starts.
"""

from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.models import FAMILIES
from pipeline.models.base import blocks_of
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.distributed import distribute, gather_tensors, processes
from pipeline.runtime.random_streams import Stream
from pipeline.text.tokenizer import PADDING
from pipeline.training.replay_buffer import Replay
from tests.conftest import of_family

VOCABULARY, MASK, ROWS = 9, 8, 16


def difference(name: str, sharded: bool) -> float:
    """On prompts of two lengths, re-masked in blocks where the model has them; distributed as `training.loop` does."""
    model, generator = of_family(name, VOCABULARY, MASK).train(), torch.Generator().manual_seed(0)
    prompt = torch.randint(MASK, (ROWS, 6), generator=generator)
    prompt[::3, :2] = PADDING
    replay = Replay.of_texts(prompt, torch.randint(MASK, (ROWS, 11), generator=generator), MASK)
    blocks = blocks_of(model)
    replay = replace(replay, block_length=blocks, blocks_from_prompt=blocks is not None)
    (batch,) = replay.batches(1, ROWS, 0, Stream.REPLAY, 1)
    weighted_cross_entropy(model, batch).mean().backward()
    wanted = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    wrapped = model = distribute(model, sharded)
    if not sharded:
        wrapped = Accelerator(cpu=True).prepare(model)
    part = ROWS // processes()
    first = torch.distributed.get_rank() * part
    weighted_cross_entropy(wrapped, batch.rows(slice(first, first + part))).mean().backward()
    found = gather_tensors((name, value.grad) for name, value in model.named_parameters())
    return max(((found[name] - wanted[name]).abs().max().item() for name in found), default=0.0)


class Layers(nn.Module):
    """A list of layers, each applied to the output of the one before."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def difference_of_nested_lists() -> float:
    """Of a list of layers that hold lists; both processes on the same rows, in shards."""
    torch.manual_seed(0)
    model, rows = Layers(*(Layers(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2))), torch.randn(6, 4)
    model(rows).sum().backward()
    wanted = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    distribute(model, sharded=True)(rows).sum().backward()
    found = gather_tensors((name, value.grad) for name, value in model.named_parameters())
    return max(((found[name] - wanted[name]).abs().max().item() for name in found), default=0.0)


def differences() -> dict[str, float]:
    """Family and way of sharing -> the largest difference."""
    ways = {"ddp": False, "shards": True}
    found = {f"{name}-{way}": difference(name, ways[way]) for name in FAMILIES for way in ways}
    return {**found, "lists-shards": difference_of_nested_lists()}
