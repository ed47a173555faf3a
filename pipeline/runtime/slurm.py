"""Asks SLURM for the nodes of this job, and cancels jobs that a killed Snakemake left in the queue."""

import os
import subprocess
import time
from pathlib import Path

NEEDED = ("SLURM_JOB_ID", "SLURM_CONF")


def nodes() -> int:
    """The number of nodes of this process's job; 1 outside SLURM.

    It comes from the queue, because the environment of a job step only names the nodes of the step.
    """
    job = os.environ.get("SLURM_JOB_ID")
    return int(_ask("squeue", "--noheader", f"--jobs={job}", "--format=%D")) if job else 1


def on_every_node(nodes: int) -> list[str]:
    """The prefix that runs a command on each node; Snakemake itself runs in a job step on the first node."""
    # srun reads its options from SLURM_* variables too, and those describe the step on the first node.
    limits = [f"--unset={name}" for name in os.environ if name.startswith("SLURM_") and name not in NEEDED]
    srun = ["srun", "--overlap", f"--nodes={nodes}", "--ntasks-per-node=1", "--cpu-bind=none", "--kill-on-bad-exit"]
    return ["env", *limits, *srun]


def cancel_left_behind(directory: Path) -> None:
    """Cancel the jobs that a killed Snakemake has left in the queue, and wait for their end.

    They would write the same files as the jobs of this Snakemake, which holds the lock of the directory. A job belongs
    to the directory if its log file does.
    """
    logs = str(directory.resolve() / ".snakemake" / "slurm_logs") + os.sep
    while left := [job for job, log in _queue() if log.startswith(logs)]:
        print(f"waiting for the end of jobs left by a killed Snakemake: {' '.join(left)}", flush=True)
        _ask("scancel", *left)
        time.sleep(2)


def _queue() -> list[tuple[str, str]]:
    """(id, log file) of each job of this user that has not ended."""
    lines = _ask("squeue", "--me", "--noheader", "--Format=JobID:20,STDOUT:4096").splitlines()
    return [(line[:20].strip(), line[20:].strip()) for line in lines]


def _ask(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
