"""Adapters merged into the weights: W + (α/r) B A in the place of W."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


def merge(module: nn.Module) -> None:
    """Replace W by W + (α/r) B A and remove the adapters. A module without adapters stays as it is.

    The sum is computed in fp32 and rounded once to the type of W, one matrix at a time: no second copy of the weights.
    With W in bfloat16 the merged weights are another law than W and the adapters apart, by that rounding.
    """
    if not hasattr(module, "peft_config"):
        return
    merged = 0
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, LoraLayer):
                linear: Any = layer.get_base_layer()
                dtype = linear.weight.dtype
                for parameter in layer.parameters():
                    parameter.data = parameter.data.float()
                layer.merge()
                linear.weight.data = _rounded(linear.weight.data, dtype, merged)
                if linear.bias is not None:
                    linear.bias.data = linear.bias.data.to(dtype)  # back from fp32
                setattr(parent, name, linear)
                merged += 1
    del module.peft_config
    module.requires_grad_(True)


def _rounded(value: Tensor, dtype: torch.dtype, seed: int) -> Tensor:
    """An fp32 tensor in another type; for bfloat16 up or down at random, by the seed, with the value as the mean.

    The nearest number would be W itself for all updates of less than half a step, 2⁻⁹ |W|: of updates 2000 times
    smaller than W on average three quarters would be lost. A number of bfloat16 stays itself.
    """
    if dtype != torch.bfloat16:
        return value.to(dtype)
    generator = torch.Generator(value.device).manual_seed(seed)
    below = torch.randint(2**16, value.shape, dtype=torch.int32, device=value.device, generator=generator)
    return (value.view(torch.int32) + below).bitwise_and_(-(2**16)).view(torch.float32).to(dtype)
