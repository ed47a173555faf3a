"""The processes of a training stage: which one saves, on which device each computes, and sharding with FSDP2.

With sharding, each process holds an equal part of parameters, gradients and moments, and gathers them layer by layer;
results differ by rounding only. PyTorch's modules for it take a second to import, so they are imported only when used.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import cast

import torch
from accelerate import PartialState
from torch import Tensor, distributed, nn

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other, such as for rank 0 while it writes a checkpoint of all weights."""


def is_main_process() -> bool:
    """Whether this process is rank 0, the one that saves."""
    return bool(_state().is_main_process)


def device() -> torch.device:
    """The device on which this process trains."""
    return torch.device(_state().device)


def processes() -> int:
    """How many processes train together."""
    return int(_state().num_processes)


def distribute(policy: nn.Module, sharded: bool) -> nn.Module:
    """Move the module to this process's device; if `sharded`, shard it, each entry of a `ModuleList` as one group.
    Create the optimiser afterwards, because sharding replaces the parameters."""
    ranks = processes()
    if not sharded or ranks == 1:
        return policy.to(device())
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # noqa: PLC0415

    mesh, precision = init_device_mesh(device().type, (ranks,)), MixedPrecisionPolicy(reduce_dtype=torch.float32)
    lists = [module for module in policy.modules() if isinstance(module, nn.ModuleList)]
    for layers in reversed(lists):  # inner ones first
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh, mp_policy=precision)
    return policy


def is_sharded(module: nn.Module) -> bool:
    return hasattr(module, "unshard")  # a method of FSDPModule


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Shard a tensor, of which every process has the whole, and move it, both as `like`."""
    value = value.to(like.device)
    if not hasattr(like, "device_mesh"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor  # noqa: PLC0415

    part = cast(DTensor, like)
    return distribute_tensor(value, part.device_mesh, part.placements, src_data_rank=None)


def unsharded(value: Tensor) -> Tensor:
    """The whole of a tensor, sharded or not. Every process must call this."""
    return cast(Tensor, value.full_tensor()) if hasattr(value, "full_tensor") else value


def gather_tensors(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The unsharded tensors in the main process's memory; {} in others. Every process must call this."""
    whole = {}
    for name, value in tensors:
        full = unsharded(value)
        if is_main_process():
            whole[name] = full.detach().cpu().contiguous()
    return whole


def gather_trained(policy: nn.Module) -> None:
    """Unshard the trained parameters, so that the main process can save them. Every process must call this."""
    if not is_sharded(policy):
        return
    trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    whole = gather_tensors(trained.items())
    replaced = {id(trained[name]): nn.Parameter(value) for name, value in whole.items()}
    for module in policy.modules():
        for name, value in module._parameters.items():
            if id(value) in replaced:
                module._parameters[name] = replaced[id(value)]


def broadcast_decision(decision: bool) -> bool:
    """The main process's decision, on every process."""
    if processes() == 1:
        return decision
    answer = torch.tensor(int(decision), device=device())
    distributed.broadcast(answer, 0)
    return bool(answer)


def sum_and_leave_group(value: float) -> float:
    """The sum over all processes, which then leave the process group. Every process must call this, last of all.

    A process that exits inside the group may be aborted while threads of its backend still run.
    """
    state = _state()
    if state.num_processes == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=state.device)
    distributed.all_reduce(total)
    state.destroy_process_group()
    return float(total)


def _state() -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
