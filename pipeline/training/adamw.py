"""AdamW that computes in fp32 for weights of any type, and its state as named tensors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.runtime.distributed import gather_tensors, shard_like
from pipeline.settings.sections import Optimizer
from pipeline.storage.atomic_files import read_tensors

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
MASTER, AVERAGE = "master", "average"


class AdamW(torch.optim.AdamW):
    """AdamW on the trainable parameters. Each bfloat16 one has an fp32 master copy, rounded after a step.

    Attributes:
        trained: name -> trainable parameter of the model.
        masters: name -> the tensor that the optimiser updates: the parameter itself or its master copy.
        averages: name -> w̄ ← ema · w̄ + (1 - ema) · w of that tensor after each step, from the start of the round on;
            {} without `ema`.
    """

    def __init__(self, policy: nn.Module, settings: Optimizer, ema: float | None = None):
        self.trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
        self.masters = {
            name: value.detach().float().requires_grad_() if value.dtype == torch.bfloat16 else value
            for name, value in self.trained.items()
        }
        super().__init__(
            self.masters.values(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.ema = ema or 0.0
        self.averages = {name: master.detach().clone() for name, master in self.masters.items()} if ema else {}

    def copies(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, parameter, master copy) of the parameters that have a master copy."""
        for name, master in self.masters.items():
            if master is not self.trained[name]:
                yield name, self.trained[name], master

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for _, value, master in self.copies():
            master.grad = None if value.grad is None else value.grad.float()
            value.grad = None
        super().step(closure)
        for _, value, master in self.copies():
            value.copy_(master)
        for name, average in self.averages.items():
            average.lerp_(self.masters[name], 1 - self.ema)

    @torch.no_grad()
    def take_averages(self) -> None:
        """Put the averages, if there are any, in the place of the parameters."""
        for name, average in self.averages.items():
            self.masters[name].copy_(average)
            self.trained[name].copy_(average)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for _, value, _ in self.copies():
            value.grad = None


def optimizer_state(optimizer: AdamW) -> dict[str, Tensor]:
    """The state as named tensors in the main process, {} in the others. Every process must call this."""
    masters = {f"{MASTER}.{name}": master for name, _, master in optimizer.copies()}
    masters |= {f"{AVERAGE}.{name}": average for name, average in optimizer.averages.items()}
    for name, master in optimizer.masters.items():
        state = optimizer.state.get(master) or _fresh(master)
        masters |= {f"{moment}.{name}": state[moment] for moment in MOMENTS}
    return gather_tensors(masters.items())


def _fresh(master: Tensor) -> dict[str, Tensor]:
    """The state of a parameter that has not had a gradient yet."""
    return {"step": torch.zeros(()), **{moment: torch.zeros_like(master) for moment in MOMENTS[1:]}}


def load_optimizer_state(path: Path, optimizer: AdamW) -> None:
    """Restore a saved `optimizer_state`.

    Raises:
        PipelineError: if the file is missing, truncated or belongs to another policy.
    """
    set_optimizer_state(optimizer, read_tensors(path)[0], path)


@torch.no_grad()
def set_optimizer_state(optimizer: AdamW, tensors: dict[str, Tensor], path: Path) -> None:
    """Restore the tensors of a saved `optimizer_state`; `path` is the file they come from, for errors."""

    def saved(name: str, like: Tensor | None) -> Tensor:
        if name not in tensors or tensors[name].shape != (() if like is None else like.shape):
            raise PipelineError(f"{path} does not belong to this policy: see '{name}'")
        return tensors[name] if like is None else shard_like(tensors[name], like)

    for name, master in optimizer.masters.items():
        for moment in MOMENTS:
            optimizer.state[master][moment] = saved(f"{moment}.{name}", None if moment == "step" else master)
    for name, _, master in optimizer.copies():
        master.copy_(saved(f"{MASTER}.{name}", master))
    for name, average in optimizer.averages.items():
        average.copy_(saved(f"{AVERAGE}.{name}", average))
