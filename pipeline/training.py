"""The one training loop: batch → loss → step. It knows no algorithm."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.config import Optimizer
from pipeline.errors import PipelineError
from pipeline.files import replacing
from pipeline.replay import Batch

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far a training stage has come: written beside the output, so that a killed stage continues.

    Attributes:
        key: a digest of everything that the result depends on; progress under another key is ignored.
        path: the checkpoint, one safetensors file; removed when training is done.
        interval: seconds between checkpoints.
    """

    path: Path
    key: str
    interval: float = 60.0
    losses: list[float] = field(default_factory=list)
    saved: float = field(default_factory=time.monotonic)

    def restore(self, policy: nn.Module, optimizer: torch.optim.AdamW) -> None:
        """Put back the weights, the moments and the losses so far, if there are any under this key."""
        if not self.path.exists():
            return
        tensors, metadata = _read(self.path)
        if metadata.get("key") != self.key:
            return
        self.losses = json.loads(metadata["losses"])
        policy.load_state_dict({name: tensors[f"policy.{name}"] for name in policy.state_dict()})
        _set_moments(policy, optimizer, tensors)

    def save(self, policy: nn.Module, optimizer: torch.optim.AdamW) -> None:
        """Write a checkpoint, if the last one is older than `interval`."""
        if time.monotonic() - self.saved < self.interval:
            return
        tensors = {f"policy.{name}": value.contiguous() for name, value in policy.state_dict().items()}
        metadata = {"key": self.key, "losses": json.dumps(self.losses)}
        with replacing(self.path) as temporary:
            save_file({**tensors, **moments(policy, optimizer)}, temporary, metadata)
        self.saved = time.monotonic()


def is_main_process() -> bool:
    """Whether this process saves: rank 0 of any number."""
    return bool(PartialState(cpu=not torch.cuda.is_available()).is_main_process)


def device() -> torch.device:
    """Where this process trains."""
    return PartialState(cpu=not torch.cuda.is_available()).device


def adamw(policy: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        policy.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )


def fit(
    policy: nn.Module,
    optimizer: torch.optim.AdamW,
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    schedule: Callable[[int], float],
    settings: Optimizer,
    progress: Progress,
    *,
    updates: int,
    title: str,
) -> list[float]:
    """Minimise the mean loss over states; returns the loss of every update.

    `settings.batch_size` is global. Each update's batch is cut into accumulation × processes equal parts; the
    gradient is that of the mean over the whole batch however it is cut.

    Args:
        loss: (policy, batch) -> one loss for each state.
        schedule: number of the update, from 0 -> learning rate.

    Raises:
        PipelineError: when the batch cannot be cut equally, or the loss is not finite.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    parts = settings.accumulation * accelerator.num_processes
    if settings.batch_size % parts:
        raise PipelineError(f"batch_size {settings.batch_size} is not a multiple of accumulation × processes = {parts}")
    progress.restore(policy, optimizer)
    wrapped, stepper = accelerator.prepare(policy.train(), optimizer)
    done = len(progress.losses)
    bar = tqdm(total=updates, initial=done, desc=title, unit="update", disable=not accelerator.is_main_process)
    with bar:
        for number, batch in enumerate(islice(batches, done, None), start=done):
            for group in stepper.param_groups:
                group["lr"] = schedule(number)
            value = _update(accelerator, wrapped, stepper, batch, loss, settings)
            if not value < float("inf"):
                raise PipelineError(f"{title}: the loss of update {number} is {value}; lower the learning rate")
            progress.losses.append(value)
            bar.set_postfix(loss=f"{value:.4f}", refresh=False)
            bar.update()
            if accelerator.is_main_process:
                progress.save(policy, optimizer)
    policy.eval()
    return progress.losses


def _update(
    accelerator: Accelerator,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    settings: Optimizer,
) -> float:
    """One optimiser step on one global batch; returns its mean loss."""
    ranks, size = accelerator.num_processes, len(batch.state)
    part = size // (settings.accumulation * ranks)
    total = torch.zeros((), device=accelerator.device)
    for micro in range(settings.accumulation):
        begin = (micro * ranks + accelerator.process_index) * part
        piece = batch.rows(slice(begin, begin + part)).to(accelerator.device)
        last = micro == settings.accumulation - 1
        with accelerator.no_sync(policy) if not last else torch.enable_grad():
            # DDP averages over ranks, so each rank's share of the mean is scaled by their number.
            share = loss(policy, piece).sum() * (ranks / size)
            accelerator.backward(share)
        total += share.detach() / ranks
    accelerator.clip_grad_norm_(policy.parameters(), settings.clip)
    optimizer.step()
    optimizer.zero_grad()
    return float(accelerator.reduce(total, "sum"))


def moments(policy: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, for safetensors."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment].contiguous()
        for name, parameter in policy.named_parameters()
        for moment in MOMENTS
    }


def load_moments(path: Path, policy: nn.Module, optimizer: torch.optim.AdamW) -> None:
    """Put back what `moments` gave.

    Raises:
        PipelineError: for a file that is missing, truncated or of another policy.
    """
    tensors, _ = _read(path)
    for name, value in policy.named_parameters():
        for moment in MOMENTS:
            found = tensors.get(f"{moment}.{name}")
            if found is None or (moment != "step" and found.shape != value.shape):
                raise PipelineError(f"{path} does not belong to this policy: see '{moment}.{name}'")
    _set_moments(policy, optimizer, tensors)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise PipelineError(f"{path} is not a complete safetensors file ({error}): delete it and run again") from error


def _set_moments(policy: nn.Module, optimizer: torch.optim.AdamW, tensors: dict[str, Tensor]) -> None:
    for name, parameter in policy.named_parameters():
        optimizer.state[parameter] = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS}
