"""Starts one process per rank: `python -m pipeline.runtime.launch 2 pipeline.stages.train …`.

0 starts a single process outside `torch.distributed`. In a job that SLURM gives to the stage the number does not count:
there is one rank for each GPU of every node. Elsewhere, and for a stage that holds devices of a pool, there are at most
as many ranks as GPUs, if there are any.
"""

import ctypes
import os
import signal
import socket
import sys
from typing import NoReturn

from pipeline.runtime import devices, slurm

SHELL, AGENT = "JOB_SHELL", "JOB_AGENT"
"""Environment variables: the process id of the job's shell, and that of `torch.distributed.run`, if it has started this
rank on the same machine."""
PR_SET_PDEATHSIG = 1


def die_with_shell() -> None:
    """Ask Linux for SIGTERM when the job's shell ends, as then Snakemake has given up the job. Survives `exec`."""
    _signal_when_parent_ends(signal.SIGTERM)
    if SHELL in os.environ and int(os.environ[SHELL]) not in (os.getppid(), os.getpid()):
        sys.exit("error: the job's shell was killed")


def die_with_agent() -> None:
    """Ask Linux for SIGKILL when `torch.distributed.run` ends: it leaves its ranks behind if it is killed, or gets a
    signal while it starts them, and they would write files that the next job writes, too."""
    if AGENT not in os.environ:
        return
    _signal_when_parent_ends(signal.SIGKILL)
    if int(os.environ[AGENT]) != os.getppid():
        sys.exit("error: the launcher was killed")


def _signal_when_parent_ends(signum: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)


def limit_to_gpus(ranks: int) -> int:
    """At most one rank per visible GPU, because two cannot share one. No limit without GPUs."""
    return min(ranks, len(devices.gpus()) or ranks)


def launcher(ranks: int, nodes: int) -> list[str]:
    """The command that runs a stage's module, whose name follows it, in `ranks` processes on each node."""
    python = [sys.executable, "-m"]
    if ranks == 0 or nodes == ranks == 1:
        return python
    torchrun = [*python, "torch.distributed.run", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d"]
    if nodes == 1:
        return [*torchrun, "--rdzv-endpoint", "localhost:0", "-m"]
    meeting = ["--nnodes", str(nodes), "--rdzv-endpoint", f"{socket.gethostname()}:{free_port()}"]
    return [*slurm.on_every_node(nodes), *torchrun, *meeting, "-m"]


def start(ranks: int, command: list[str]) -> NoReturn:
    """Replace this process by the ranks of `python -m COMMAND`."""
    nodes = 1
    if devices.needed():  # Snakemake runs within an allocation and hands out its devices itself
        ranks = limit_to_gpus(ranks)
    else:
        ranks, nodes = ranks and int(os.environ.get("SLURM_GPUS_ON_NODE", limit_to_gpus(ranks))), slurm.nodes()
    everything = [*launcher(ranks, nodes), *command]
    agent = {AGENT: str(os.getpid())} if ranks > 1 and nodes == 1 else {}
    os.execvpe(everything[0], everything, {**os.environ, **agent})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    die_with_shell()
    devices.hold()
    start(int(sys.argv[1]), sys.argv[2:])
