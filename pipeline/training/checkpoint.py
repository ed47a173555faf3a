"""The checkpoint of a training stage: parameters, optimiser state and losses so far."""

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.runtime.distributed import broadcast_decision, gather_tensors, is_main_process, shard_like
from pipeline.storage.atomic_files import read_tensors, replacing
from pipeline.training.adamw import AdamW, optimizer_state, set_optimizer_state

MOST_WRITING = 0.05
"""The share of the time of training that checkpoints may take."""


@dataclass
class Checkpoint:
    """The newest state of a running training, from which it continues after it was killed.

    Attributes:
        path: one safetensors file beside the output; the stage removes it when training is done.
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
