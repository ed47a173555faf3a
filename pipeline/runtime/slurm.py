"""What SLURM is asked: how many nodes this job has, and which jobs a killed Snakemake has left in the queue."""

import os
import subprocess
import time
from pathlib import Path

NEEDED = ("SLURM_JOB_ID", "SLURM_CONF")


def nodes() -> int:
    """The nodes of the job that this process runs in; 1 outside SLURM.

    Asked of the queue, because a job step sees in its environment no other nodes than its own.
    """
    job = os.environ.get("SLURM_JOB_ID")
    return int(_ask("squeue", "--noheader", f"--jobs={job}", "--format=%D")) if job else 1


def on_every_node(nodes: int) -> list[str]:
    """The command in front of one that each node shall run: Snakemake itself runs in a step on the first node only."""
    # srun would take the limits of that step, which its environment tells, for its own options.
    limits = [f"--unset={name}" for name in os.environ if name.startswith("SLURM_") and name not in NEEDED]
    srun = ["srun", "--overlap", f"--nodes={nodes}", "--ntasks-per-node=1", "--cpu-bind=none", "--kill-on-bad-exit"]
    return ["env", *limits, *srun]


def cancel_left_behind(directory: Path) -> None:
    """Cancel the jobs that a killed Snakemake has left in the queue, and wait until they have ended.

    They would write the same files as those of the next Snakemake, which calls this under the directory's lock.
    Jobs of a directory are those that log into it.
    """
    logs = str(directory.resolve() / ".snakemake" / "slurm_logs") + os.sep
    while left := [job for job, log in _queue() if log.startswith(logs)]:
        print(f"waiting for the end of jobs left by a killed Snakemake: {' '.join(left)}", flush=True)
        _ask("scancel", *left)
        time.sleep(2)


def _queue() -> list[tuple[str, str]]:
    """Job and log file of every job of this user that has not ended."""
    lines = _ask("squeue", "--me", "--noheader", "--Format=JobID:20,STDOUT:4096").splitlines()
    return [(line[:20].strip(), line[20:].strip()) for line in lines]


def _ask(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
