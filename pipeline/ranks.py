"""One process per rank: `python -m pipeline.ranks 2 pipeline.stages.train …`.

In a SLURM job the allocation decides instead of the number: one rank for each GPU of every node.
"""

import os
import socket
import sys
from typing import NoReturn

from pipeline import slurm


def launcher(ranks: int, nodes: int) -> list[str]:
    """The command in front of a stage's module: `ranks` processes on each of the nodes."""
    python = [sys.executable, "-m"]
    if nodes == ranks == 1:
        return python
    torchrun = [*python, "torch.distributed.run", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d"]
    if nodes == 1:
        return [*torchrun, "--rdzv-endpoint", "localhost:0", "-m"]
    meeting = ["--nnodes", str(nodes), "--rdzv-endpoint", f"{socket.gethostname()}:{free_port()}"]
    return [*slurm.on_every_node(nodes), *torchrun, *meeting, "-m"]


def start(ranks: int, command: list[str]) -> NoReturn:
    """Become the ranks of `python -m COMMAND`."""
    ranks = int(os.environ.get("SLURM_GPUS_ON_NODE", ranks))
    everything = [*launcher(ranks, slurm.nodes()), *command]
    os.execvp(everything[0], everything)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    start(int(sys.argv[1]), sys.argv[2:])
