"""The number of processes of a stage: as asked for, or one for each GPU of a SLURM job's nodes."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from pipeline.runtime import devices, slurm
from pipeline.runtime import launch as ranks
from tests.conftest import ROOT
from tests.forks import SECONDS
from tests.processes import still_running

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(autouse=True)
def no_allocation(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch):
    """Replaces `exec`: returns the command that a stage of so many ranks would become."""

    def command(number: int) -> str:
        executed = []
        monkeypatch.setattr(ranks.os, "execvpe", lambda file, arguments, _: executed.append(" ".join(arguments)))
        ranks.start(number, ["stage", "--option"])
        return executed[0].removeprefix(sys.executable)

    return command


def test_one_rank_is_python_alone(started):
    assert started(1) == " -m stage --option"


def test_a_stage_without_ranks_has_one_process_whatever_the_allocation(started, monkeypatch):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    monkeypatch.setattr(slurm, "nodes", lambda: 2)
    assert started(0) == " -m stage --option"


WAITING = """
import time
from pipeline.settings.stages import NoSettings
from pipeline.stages.command_line import main

def run(args, settings):
    print("running", flush=True)
    time.sleep(1000)

if __name__ == "__main__":
    main(run, NoSettings, "", {})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has gone")
@pytest.mark.parametrize(("number", "victim"), [(0, "shell"), (2, "shell"), (2, "torch.distributed.run")])
def test_a_stage_ends_with_its_shell_and_with_its_launcher(number, victim, tmp_path):
    """If only one of these is killed, the processes of the pipe end too."""
    (tmp_path / "stage.py").write_text(WAITING)
    command = f"{sys.executable} -m pipeline.runtime.launch {number} stage --settings {{}} --timing t | tee out"
    shell = subprocess.Popen(["bash", "-c", command], cwd=tmp_path, stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert shell.stdout and shell.stdout.readline().startswith(b"running")  # ranks may speak at once
    family = psutil.Process(shell.pid).children(recursive=True)
    agents = [process for process in family if victim in process.cmdline()]
    (agents[0] if agents else shell).send_signal(signal.SIGKILL)
    assert still_running(family) == [] and len(agents) == (victim != "shell")
    shell.wait()
    shell.stdout.close()


STAGE = """
import json, os, time
from pathlib import Path
from pipeline.settings.stages import NoSettings
from pipeline.stages.command_line import main

def run(args, settings):
    rank = int(os.environ["RANK"])
    until = time.process_time() + 2 * rank
    while time.process_time() < until:
        pass
    args.out.with_suffix(f".{rank}").write_text(str(time.process_time()))

if __name__ == "__main__":
    main(run, NoSettings, "", {"out": ""})
"""


def test_cpu_seconds_are_those_of_all_ranks(tmp_path):
    """The second rank computes for two seconds longer than the first."""
    (tmp_path / "stage.py").write_text(STAGE)
    command = f"-m pipeline.runtime.launch 2 stage --settings {{}} --timing {tmp_path}/timing.json --out {tmp_path}/out"
    subprocess.run([sys.executable, *command.split()], cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=SECONDS)
    first, second = (float((tmp_path / f"out.{rank}").read_text()) for rank in (0, 1))
    cpu_seconds = json.loads((tmp_path / "timing.json").read_text())["cpu_seconds"]
    assert second > 2
    assert first + second <= cpu_seconds < first + second + 1


def test_a_workstation_gets_the_number(started):
    assert "torch.distributed.run --nproc-per-node 3 " in started(3)
    assert started(3).endswith("--rdzv-endpoint localhost:0 -m stage --option")


def test_a_workstation_has_no_more_ranks_than_gpus(started, monkeypatch, tmp_path):
    """Two ranks on one GPU would stop in NCCL."""
    monkeypatch.setattr(devices, "FILES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert "--nproc-per-node 2 " in started(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert started(4) == " -m stage --option"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "--nproc-per-node 4 " in started(4)


def test_a_job_gets_one_rank_for_each_gpu(started, monkeypatch):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    assert "--nproc-per-node 4 " in started(1)


def test_a_job_of_a_snakemake_within_an_allocation_has_a_rank_for_each_device_it_holds(started, monkeypatch, tmp_path):
    """The others of the allocation are those of jobs beside it."""
    monkeypatch.setattr(devices, "FILES", tmp_path)
    for number in range(4):
        (tmp_path / f"nvidia{number}").touch()
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    monkeypatch.setattr(slurm, "nodes", lambda: 2)
    monkeypatch.setenv(devices.POOL, json.dumps([str(tmp_path), "0", "1", "2", "3"]))
    for held, started_as in (("2", " -m stage"), ("0,3", " -m torch.distributed.run --nproc-per-node 2 ")):
        monkeypatch.setenv(devices.NEEDED, "2")
        monkeypatch.setenv(devices.VISIBLE, held)
        assert started(2).startswith(started_as)


def test_nodes_meet_at_the_first(started, monkeypatch):
    """`srun` does not see the variables of the job step on the first node."""
    monkeypatch.setenv("SLURM_NNODES", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "nodes", lambda: 2)
    command = started(1)
    assert command.startswith("env --unset=SLURM_NNODES srun --overlap --nodes=2 --ntasks-per-node=1 ")
    assert "--nnodes 2 --rdzv-endpoint " in command


def test_a_stage_whose_shell_has_gone_does_not_begin(tmp_path):
    """The shell was killed before the process could ask for a signal at its end."""
    command = [sys.executable, "-m", "pipeline.runtime.launch", "0", "this"]
    for shell, printed in ((os.getpid(), "The Zen of Python"), (1 << 22, "error: the job's shell was killed")):
        known = ENVIRONMENT | {ranks.SHELL: str(shell)}
        done = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, check=False)
        assert (done.stdout + done.stderr).startswith(printed)
