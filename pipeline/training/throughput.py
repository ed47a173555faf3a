"""Throughput of a stage: seconds, tokens, and operations of a model's passes by the formulas of `models.flops`."""

import time
from typing import Any

import torch
from torch import nn

from pipeline.models import adapters
from pipeline.models.base import Output
from pipeline.models.flops import Shape, peak
from pipeline.training.speed import Measured


class Meter:
    """Measures seconds and the passes of one model inside its `with` blocks, in this process.

    Attributes:
        seconds: wall-clock time, until the device has finished.
        flops: operations of the passes, including what gradient checkpointing recomputes; 0 if the model is not a
            transformer.
        positions: tokens of all sequences that were passed through the model.
    """

    def __init__(self, model: nn.Module, *, recompute: bool = False):
        self.model, self.recompute = model, recompute
        self.shape = Shape.of_module(model)
        self.adapters = sum(parameter.numel() for _, parameter in adapters.own_parameters(model))
        self.seconds, self.flops, self.positions = 0.0, 0.0, 0

    def __enter__(self) -> "Meter":
        self._hook = self.model.register_forward_hook(self._count, with_kwargs=True)
        self._started = now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += now() - self._started
        self._hook.remove()

    def measured(self, tokens: int) -> Measured | None:
        """The stage's throughput in `tokens`, such as those that it generated; None if nothing ran."""
        if not self.seconds:
            return None
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        return {"tokens": tokens, "seconds": self.seconds, "flops": self.flops, "peak": peak(name)}

    def _count(self, module: nn.Module, args: object, inputs: dict[str, Any], output: Output) -> None:
        rows, length = inputs["input_ids"].shape
        keys = inputs["cache"].length if "cache" in inputs else length
        self.positions += rows * length
        if self.shape is None:
            return
        found = output.logits if output.log_prob is None else output.log_prob
        assert found is not None
        read = found.shape[:-1].numel()
        if torch.is_grad_enabled() and module.training:
            self.flops += self.shape.training(rows, length, read, self.adapters, self.recompute)
        else:
            self.flops += self.shape.forward(rows, length, read, self.adapters, keys)


def now() -> float:
    """Seconds of a monotonic clock, after the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
