"""How many of a dry run's jobs run side by side, and how long they take then. Torch-free."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from pipeline.settings.project import Hardware
from pipeline.settings.run import Run
from pipeline.workflow.rules import threads

TRAINING = ("base", "train")
"""The stages that have `hardware.processes` processes, with a GPU each; the others have one process."""


class Machine(NamedTuple):
    """The cores and the devices (GPUs) that Snakemake hands out to jobs of this machine, or the number of its jobs on a
    cluster and the GPUs of a training job there."""

    cores: int
    devices: int = 0
    cluster_jobs: int = 0
    cluster_gpus: int = 0

    def hardware(self, asked: Hardware, on_gpu: bool) -> Hardware:
        """The hardware with the number of processes that will train: on GPUs at most one for each."""
        processes = min(asked.processes, max(1, self.devices)) if on_gpu and not self.cluster_jobs else asked.processes
        return asked.model_copy(update={"processes": self.cluster_gpus or processes})

    def at_once(self, hardware: Hardware, on_gpu: bool) -> int:
        """How many jobs of one process run side by side; on a GPU that nobody hands out, one."""
        if self.cluster_jobs:
            return self.cluster_jobs
        of_cores = self.cores // threads(hardware.threads, self.cores, self.devices)
        return max(1, min(of_cores, self.devices or (1 if on_gpu else of_cores)))

    def capacity(self, hardware: Hardware, on_gpu: bool) -> int:
        """The GPUs or cores that compute if there are jobs enough."""
        return self.at_once(hardware, on_gpu) if on_gpu or self.cluster_jobs else self.cores

    def wall_time(self, time: float, jobs: int, stage: str, run: Run, hardware: Hardware, on_gpu: bool) -> float:
        """How long the jobs of a stage take that together need `time` on one GPU or core.

        The shards of a round run side by side, its rounds one after the other.
        """
        at_once, processes = self.at_once(hardware, on_gpu), hardware.processes if stage in TRAINING else 1
        rounds, rest = divmod(jobs, of_round := jobs_of_round(run, stage))
        turns = rounds * math.ceil(of_round / at_once) + math.ceil(rest / at_once)
        workers = processes if on_gpu else processes * hardware.threads
        return time / jobs * turns / (workers if on_gpu or self.cluster_jobs else min(workers, self.cores))


def jobs_of_round(run: Run, stage: str) -> int:
    """How many jobs of a stage each round has that it is in."""
    shards = {"rollout": run.rollout.shards, "reference": run.rollout.shards, "decode": run.evaluate.shards}
    return shards.get(stage, 1)


def machine_of(resources: Any, devices: int, pending: Iterable[Any]) -> Machine:
    """The machine that Snakemake's resource settings describe; on a cluster, the pending jobs say how many GPUs."""
    cores = resources.cores or 1
    return Machine(cores, devices, resources.nodes, _gpus(pending)) if resources.nodes else Machine(cores, devices)


def _gpus(pending: Iterable[Any]) -> int:
    """The GPUs that a training job asks of a cluster, as in `gres: gpu:a100:8`; 0 if it asks for none."""
    asked = [job.resources for job in pending if job.rule.name == "train"]
    counts = [
        (str(resources.get("gres", "")).rpartition(":")[2], int(resources.get("nodes", 1))) for resources in asked
    ]
    return max((int(count) * nodes for count, nodes in counts if count.isdigit()), default=0)
