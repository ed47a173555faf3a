"""One process of two: gradients of every family with DDP and in shards, compared with those of one process.

Run by test_distributed.py with torchrun; prints the largest difference of each.
"""

from dataclasses import replace

import torch
from accelerate import Accelerator

from pipeline.models import FAMILIES
from pipeline.models.base import blocks_of
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.distributed import distribute, gather_tensors, is_main_process, processes
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    ways = {"ddp": False, "shards": True}
    differences = {f"{name}-{way}": difference(name, ways[way]) for name in FAMILIES for way in ways}
    if is_main_process():
        print(*(f"{key} {value:.1e}" for key, value in differences.items()), sep="\n")
    torch.distributed.destroy_process_group()
