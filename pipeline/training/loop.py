"""The training loop of every algorithm: batch → loss → optimiser step."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.errors import PipelineError
from pipeline.models.base import moves_padding
from pipeline.models.row_dropout import draw_masks
from pipeline.runtime.distributed import is_main_process, is_sharded, unsharded
from pipeline.runtime.random_streams import Stream, seed_torch
from pipeline.settings.sections import Optimizer
from pipeline.training.adamw import AdamW
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.replay_buffer import Batch


def fit(
    policy: nn.Module,
    optimizer: AdamW,
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    schedule: Callable[[int], float],
    settings: Optimizer,
    checkpoint: Checkpoint,
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
    checkpoint.restore(optimizer)
    checkpoint.save_often_after_sigterm()
    policy.train()
    wrapped, wrapped_optimizer = (policy, optimizer) if is_sharded(policy) else accelerator.prepare(policy, optimizer)
    done, end = len(checkpoint.losses), partial(Batch.end, without_padding=moves_padding(policy))
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
            checkpoint.losses.append(value)
            bar.set_postfix(loss=f"{value:.4f}", refresh=False)
            bar.update()
            checkpoint.save(optimizer)
    policy.eval()
    return checkpoint.losses


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
