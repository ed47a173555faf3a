"""The training loop of every algorithm: batch → loss → optimiser step."""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.errors import PipelineError
from pipeline.models.base import moves_padding
from pipeline.models.row_dropout import draw_masks
from pipeline.runtime.distributed import (
    broadcast_decision,
    gather_tensors,
    is_main_process,
    is_sharded,
    shard_like,
    unsharded,
)
from pipeline.runtime.random_streams import Stream, seed_torch
from pipeline.settings.sections import Optimizer
from pipeline.storage.atomic_files import read_tensors, replacing
from pipeline.training.adamw import AdamW, optimizer_state, set_optimizer_state
from pipeline.training.replay_buffer import Batch

MOST_WRITING = 0.05
"""The share of the time of training that checkpoints may take."""


@dataclass
class Progress:
    """Checkpoints of a running training stage, from which it continues after it was killed.

    Attributes:
        path: the checkpoint, one safetensors file beside the output; the stage removes it when training is done.
        key: a digest of everything that the result depends on; a checkpoint with another key is ignored.
        interval: seconds between checkpoints, or more if writing them takes more than `MOST_WRITING` of the time.
    """

    path: Path
    key: str
    interval: float = 60.0
    losses: list[float] = field(default_factory=list)
    saved: float = field(default_factory=time.monotonic)
    writing: float = 0.0

    def save_often_after_sigterm(self) -> None:
        """In a SLURM job SIGTERM announces SIGKILL at an unknown time: after SIGTERM, save after every update."""
        if "SLURM_JOB_ID" in os.environ:
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "interval", 0.0))

    @torch.no_grad()
    def restore(self, optimizer: AdamW) -> None:
        """Restore parameters, optimiser state and losses from the checkpoint, if there is one with this key."""
        if not self.path.exists():
            return
        tensors, metadata = read_tensors(self.path)
        if metadata.get("key") != self.key:
            return
        self.losses = json.loads(metadata["losses"])
        for name, value in optimizer.trained.items():
            value.copy_(shard_like(tensors[f"policy.{name}"], value))
        set_optimizer_state(optimizer, tensors, self.path)

    def save(self, optimizer: AdamW) -> None:
        """Write a checkpoint if it is time for one. Every process must call this."""
        pause = max(self.interval, self.writing / MOST_WRITING) if self.interval else 0.0
        begun = time.monotonic()
        if not broadcast_decision(begun - self.saved >= pause):
            return
        tensors = gather_tensors((f"policy.{name}", value) for name, value in optimizer.trained.items())
        tensors |= optimizer_state(optimizer)
        if is_main_process():
            with replacing(self.path) as temporary:
                save_file(tensors, temporary, {"key": self.key, "losses": json.dumps(self.losses)})
        self.saved = time.monotonic()
        self.writing = self.saved - begun


def fit(
    policy: nn.Module,
    optimizer: AdamW,
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    schedule: Callable[[int], float],
    settings: Optimizer,
    progress: Progress,
    *,
    seed: int,
    round_: int,
    updates: int,
    title: str,
) -> list[float]:
    """Minimise the mean loss over states; returns the loss of every update.

    `settings.batch_size` is global. Each batch is split into gradient_accumulation_steps × processes equal parts; the
    gradient is that of the mean over the whole batch, however it is split.

    Args:
        policy: as returned by `distributed.distribute`; if it is not sharded, DDP replicates it on all processes.
        loss: (policy, batch) -> one loss for each state.
        schedule: number of the update, from 0 -> learning rate.
        seed, round_: with the update and the row they determine the masks of `RowDropout`, so that a training that was
            killed and continued, repeated from other copies of its inputs, or split otherwise, draws the same ones.
            Masks of any other dropout also depend on the rank.

    Raises:
        PipelineError: when the batch cannot be split equally, or a loss or the norm of its gradient is not finite.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    parts = settings.gradient_accumulation_steps * accelerator.num_processes
    if settings.batch_size % parts:
        raise PipelineError(
            f"batch_size {settings.batch_size} is not a multiple of gradient_accumulation_steps × processes = {parts}"
        )
    progress.restore(optimizer)
    progress.save_often_after_sigterm()
    policy.train()
    wrapped, wrapped_optimizer = (policy, optimizer) if is_sharded(policy) else accelerator.prepare(policy, optimizer)
    done, end = len(progress.losses), partial(Batch.end, without_padding=moves_padding(policy))
    with tqdm(total=updates, initial=done, desc=title, unit="update", disable=not is_main_process()) as bar:
        for number, batch in enumerate(islice(batches, done, None), start=done):
            for group in wrapped_optimizer.param_groups:
                group["lr"] = schedule(number)
            seed_torch(seed, Stream.DROPOUT, round_, number, accelerator.process_index)
            draw = partial(draw_masks, policy, seed, round_, number, device=accelerator.device)
            value, norm = _update(accelerator, wrapped, wrapped_optimizer, batch, loss, settings, draw, end)
            if not (math.isfinite(value) and math.isfinite(norm)):
                found = f"the loss of update {number} is {value:.4g}, with a gradient of norm {norm:.4g}"
                raise PipelineError(f"{title}: {found}: take a lower learning rate or smaller weights of the targets")
            progress.losses.append(value)
            bar.set_postfix(loss=f"{value:.4f}", refresh=False)
            bar.update()
            progress.save(optimizer)
    policy.eval()
    return progress.losses


def _update(
    accelerator: Accelerator,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    settings: Optimizer,
    draw_masks_of: Callable[[range, int], None],
    end: Callable[[Batch], int],
) -> tuple[float, float]:
    """One optimiser step on one global batch; returns its mean loss, and the norm of the gradient before clipping.

    A norm that overflows, from about 1.8e19 on, would clip the gradient to 0 unnoticed.
    """
    ranks, size = accelerator.num_processes, len(batch.state)
    part = size // (settings.gradient_accumulation_steps * ranks)
    total = torch.zeros((), device=accelerator.device)
    for micro in range(settings.gradient_accumulation_steps):
        begin = (micro * ranks + accelerator.process_index) * part
        piece = batch.rows(slice(begin, begin + part)).to(accelerator.device)
        draw_masks_of(range(begin, begin + part), end(batch) - end(piece))
        last = micro == settings.gradient_accumulation_steps - 1
        with accelerator.no_sync(policy) if not last else torch.enable_grad():
            # DDP averages the gradients over ranks, so each rank's share of the mean is multiplied by their number.
            share = loss(policy, piece).sum() * (ranks / size)
            accelerator.backward(share)
        total += share.detach() / ranks
    norm = accelerator.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(accelerator.reduce(total, "sum")), float(unsharded(norm))
