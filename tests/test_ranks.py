"""How many processes a stage gets: the number it asks for, or one for each GPU of a SLURM job's nodes."""

import sys

import pytest

from pipeline import ranks, slurm


@pytest.fixture(autouse=True)
def no_allocation(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch):
    """Takes the place of exec; returns the command that a stage of so many ranks becomes."""

    def command(number: int) -> str:
        executed = []
        monkeypatch.setattr(ranks.os, "execvp", lambda file, arguments: executed.append(" ".join(arguments)))
        ranks.start(number, ["stage", "--option"])
        return executed[0].removeprefix(sys.executable)

    return command


def test_one_rank_is_python_alone(started):
    assert started(1) == " -m stage --option"


def test_a_workstation_gets_the_number(started):
    assert "torch.distributed.run --nproc-per-node 3 " in started(3)
    assert started(3).endswith("--rdzv-endpoint localhost:0 -m stage --option")


def test_a_job_gets_one_rank_for_each_gpu(started, monkeypatch):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    assert "--nproc-per-node 4 " in started(1)


def test_nodes_meet_at_the_first(started, monkeypatch):
    """The limits of the step on the first node are kept from srun."""
    monkeypatch.setenv("SLURM_NNODES", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "nodes", lambda: 2)
    command = started(1)
    assert command.startswith("env --unset=SLURM_NNODES srun --overlap --nodes=2 --ntasks-per-node=1 ")
    assert "--nnodes 2 --rdzv-endpoint " in command
