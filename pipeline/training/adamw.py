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
MASTER = "master"


class AdamW(torch.optim.AdamW):
    """AdamW on the trainable parameters. Each bfloat16 one has an fp32 master copy, rounded after a step.

    Attributes:
        trained: name -> trainable parameter of the model.
        masters: name -> the tensor that the optimiser updates: the parameter itself or its master copy.
    """

    def __init__(self, policy: nn.Module, settings: Optimizer):
        self.trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
        self.masters = {
            name: value.detach().float().requires_grad_() if value.dtype == torch.bfloat16 else value
            for name, value in self.trained.items()
        }
        super().__init__(
            self.masters.values(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )

    def copies(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, parameter, master copy) of the parameters that have a master copy."""
        for name, master in self.masters.items():
            if master is not self.trained[name]:
                yield name, self.trained[name], master

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for _, value, master in self.copies():
            master.grad = None if value.grad is None else value.grad.float()
        super().step(closure)
        for _, value, master in self.copies():
            value.copy_(master)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for _, value, _ in self.copies():
            value.grad = None


def optimizer_state(optimizer: AdamW) -> dict[str, Tensor]:
    """The state as named tensors in the main process, {} in the others. Every process must call this."""
    state = [(f"{moment}.{name}", optimizer.state[value][moment]) for name, value, moment in _places(optimizer)]
    masters = [(f"{MASTER}.{name}", master) for name, _, master in optimizer.copies()]
    return gather_tensors([*state, *masters])


def load_optimizer_state(path: Path, optimizer: AdamW) -> None:
    """Restore a saved `optimizer_state`.

    Raises:
        PipelineError: if the file is missing, truncated or belongs to another policy.
    """
    tensors, _ = read_tensors(path)
    wanted = [
        (f"{moment}.{name}", () if moment == "step" else value.shape) for name, value, moment in _places(optimizer)
    ]
    wanted += [(f"{MASTER}.{name}", master.shape) for name, _, master in optimizer.copies()]
    for name, shape in wanted:
        if name not in tensors or tensors[name].shape != shape:
            raise PipelineError(f"{path} does not belong to this policy: see '{name}'")
    set_optimizer_state(optimizer, tensors)


@torch.no_grad()
def set_optimizer_state(optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    for name, value, moment in _places(optimizer):
        found = tensors[f"{moment}.{name}"]
        optimizer.state[value][moment] = found if moment == "step" else shard_like(found, value)
    for name, _, master in optimizer.copies():
        master.copy_(shard_like(tensors[f"{MASTER}.{name}"], master))


def _places(optimizer: AdamW) -> Iterator[tuple[str, Tensor, str]]:
    """(name of the parameter, tensor that the optimiser updates, name of the moment)"""
    for name, value in optimizer.masters.items():
        for moment in MOMENTS:
            yield name, value, moment
