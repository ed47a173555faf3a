"""Transformer blocks compiled by `torch.compile`: a GPU then spends less time on operations between matrix products."""

import torch
from torch import nn

VARIANTS = 64
"""The most graphs of one block: for training or not, each policy, with and without a mask, one row or several."""


def compiles(wanted: bool | None) -> bool:
    """Whether to compile: None means on a GPU."""
    return torch.cuda.is_available() if wanted is None else wanted


def compile_blocks(module: nn.Module, wanted: bool | None, backend: str = "inductor") -> nn.Module:
    """Compile each entry of a `ModuleList`, in place, if it is wanted.

    All blocks share a graph, and batch and length are symbols in it, so other sizes compile nothing new. Results differ
    from those of the module before by the order of sums.
    """
    if compiles(wanted):
        # Past PyTorch's own limit of 8 a block would silently go on without compiling.
        torch._dynamo.config.recompile_limit = VARIANTS
        for layers in [part for part in module.modules() if isinstance(part, nn.ModuleList)]:
            for layer in layers:
                layer.compile(backend=backend, dynamic=True)
    return module
