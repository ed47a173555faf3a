"""Trains a small policy, in one process or in those that `python -m torch.distributed.run` starts.

Like that of several algorithms, the loss also uses the base and the behavior policy.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import save_file

from pipeline.models.llada import PLUGIN
from pipeline.models.policy_directory import load_frozen, make_trainable, save_policy
from pipeline.runtime.distributed import device, distribute, gather_trained, is_main_process
from pipeline.runtime.random_streams import Stream
from pipeline.samplers.posterior import completion_log_prob
from pipeline.settings.sections import Adapter, Train
from pipeline.text.tokenizer import character_tokenizer
from pipeline.training.adamw import AdamW, load_optimizer_state, optimizer_state
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import fit
from pipeline.training.replay_buffer import Batch, Replay
from tests.runtime import sharded_families

MASK, UPDATES, RATE = 8, 4, 2e-3
TOKENIZER = character_tokenizer("01234567")
KINDS = ("full", "lora", "bfloat16", "lora-bfloat16")
"""All weights or adapters, in fp32 or in bfloat16 with fp32 masters."""


def settings(kind: str) -> tuple[str, Train]:
    adapter = Adapter(rank=4, alpha=8, dropout=0.3) if kind.startswith("lora") else None
    train = Train(batch_size=8, gradient_accumulation_steps=2, lr=RATE, adapter=adapter, gradient_checkpointing=True)
    return "bfloat16" if kind.endswith("bfloat16") else "float32", train


def base_of(kind: str) -> Path:
    return Path(f"base-{settings(kind)[0]}")


def loss(policy: torch.nn.Module, batch: Batch, others: list[torch.nn.Module]) -> torch.Tensor:
    """-log p + (log p - log p_base)² + (log p - log p_behavior)², the mean over the masked positions."""
    arguments = (batch.prompt, batch.state, batch.tokens, batch.state == MASK)
    log_prob = completion_log_prob(policy, *arguments)
    with torch.no_grad():
        known = [completion_log_prob(model, *arguments) for model in others]
    value = sum(((log_prob - other) ** 2 for other in known), -log_prob)
    return (value * batch.loss_positions).sum(dim=(1, 2)) / batch.loss_positions.sum(dim=(1, 2))


def round_(number: int, kind: str, sharding: str, out: Path, updates: int = UPDATES) -> list[float]:
    """One round of training, from the policy and the moments of the round before."""
    train, base, here = settings(kind)[1], base_of(kind), out / f"round_{number}"
    before = out / f"round_{number - 1}" / "policy" if number > 1 else base
    policy = PLUGIN.load(before)
    make_trainable(policy, PLUGIN, train, 0, base, here / "policy")
    distribute(policy, sharding == "full")
    optimizer = AdamW(policy, train)
    if number > 1:
        load_optimizer_state(before.parent / "optimizer.safetensors", optimizer)
    others = [load_frozen(path, PLUGIN, policy, device()) for path in (base, before)]
    generator = torch.Generator().manual_seed(number)
    texts = [torch.randint(8, (32, length), generator=generator) for length in (3, 6)]
    batches = Replay.of_texts(*texts, MASK).batches(UPDATES, 8, 0, Stream.REPLAY, number)
    checkpoint = Checkpoint(here.with_suffix(".checkpoint"), "key", interval=0.0)
    losses = fit(
        policy,
        optimizer,
        (batch for batch, _ in zip(batches, range(updates))),  # noqa: B905
        partial(loss, others=others),
        lambda update: RATE,
        train,
        checkpoint,
        seed=0,
        round_=number,
        updates=UPDATES,
        title=kind,
    )
    state = optimizer_state(optimizer)
    gather_trained(policy)
    if is_main_process() and updates == UPDATES:
        save_policy(here / "policy", policy, TOKENIZER, PLUGIN)
        save_file(state, here / "optimizer.safetensors")
    PartialState().wait_for_everyone()
    return losses


def train(kind: str, sharding: str, out: Path) -> list[float]:
    """Two rounds; the second stops after two updates and goes on from its checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    first = round_(1, kind, sharding, out)
    round_(2, kind, sharding, out, updates=2)
    return first + round_(2, kind, sharding, out)


if __name__ == "__main__":
    found = {
        f"{kind} {sharding}": train(kind, sharding, Path(f"{sys.argv[1]}-{kind}-{sharding}"))
        for kind in KINDS
        for sharding in ("none", "full")
    }
    gradients = sharded_families.differences()
    if is_main_process():
        Path(f"{sys.argv[1]}.json").write_text(json.dumps(found))
        Path(f"{sys.argv[1]}-families.json").write_text(json.dumps(gradients))
    torch.distributed.destroy_process_group()
