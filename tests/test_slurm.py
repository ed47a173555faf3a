"""The small workflow as jobs on a real SLURM: GPUs, preemption, kills of a job and of Snakemake, two nodes, DVC."""

import json
import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from safetensors import safe_open

from tests.cluster import ask, slurm, wait_for  # noqa: F401
from tests.dvc.conftest import Repository, repository, reproduced  # noqa: F401
from tests.forks import SECONDS
from tests.small_workflow import Workflow, undone

PROFILE = ("--profile", "profiles/slurm")
EVERY_SECOND = """
if workflow.is_main_process:
    from snakemake_executor_plugin_slurm import Executor

    Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)
"""
"""For the Snakefile. By itself the plugin looks for ended jobs after 1, 12, 33, 64, … seconds, and these take 10 or so:
with three jobs one after the other, most of a minute would be spent waiting for the next look."""

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.fixture
def attentive(repository: Repository) -> Repository:  # noqa: F811
    """A copy of the finished run whose Snakemake asks SLURM every second which jobs have ended."""
    with (repository.directory / "Snakefile").open("a") as snakefile:
        snakefile.write(EVERY_SECOND)
    return repository


class Controller:
    """A Snakemake that submits jobs and is killed at the end; its output is in `out`."""

    def __init__(self, workflow: Workflow, *arguments: str):
        self.directory = workflow.directory
        with (self.directory / "out").open("wb") as out:
            command = workflow.command(*PROFILE, *arguments)
            self.process = subprocess.Popen(command, cwd=self.directory, stdout=out, stderr=out)

    def __enter__(self) -> "Controller":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def stage(self, name: str, *arguments: str, another_job_than: str = "", **variables: str) -> psutil.Process:
        """Wait for the process of a stage with these arguments and environment variables."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            for process in psutil.process_iter():
                try:
                    command = process.cmdline()
                    if f"pipeline.stages.{name}" not in command[2:4] or not {*arguments} <= {*command}:
                        continue
                    environment = process.environ()
                    if process.cwd() != str(self.directory) or not variables.items() <= environment.items():
                        continue
                    if environment["SLURM_JOB_ID"] != another_job_than:
                        return process
                except psutil.Error:  # it has ended in the meantime
                    continue
            time.sleep(0.05)
        raise AssertionError((self.directory / "out").read_text()[-3000:])

    def suspended(self, name: str, *arguments: str) -> psutil.Process:
        """Wait for it in the same way, and suspend it before it can end."""
        process = self.stage(name, *arguments)
        process.suspend()
        return process


def job_of(stage: psutil.Process) -> str:
    return stage.environ()["SLURM_JOB_ID"]


def asked(job: str) -> str:
    """Everything that SLURM knows about a job."""
    return ask("scontrol", "show", "job", job)


def all_jobs() -> dict[str, str]:
    """Job -> its state, of those that SLURM still knows."""
    return dict(line.split() for line in ask("squeue", "--states=all", "--noheader", "--format=%i %T").splitlines())


def preempt(stage: psutil.Process, checkpoint: Path) -> None:
    """Let an urgent job preempt a training job, which may then start again at once instead of after two minutes.

    Args:
        checkpoint: what the training writes on SIGTERM; it is suspended after that.
    """
    job, node = job_of(stage), stage.environ()["SLURMD_NODENAME"]
    ask("sbatch", "--partition=urgent", "--gres=gpu:1", f"--nodelist={node}", "--output=/dev/null", "--wrap=true")
    wait_for(checkpoint.exists, pause=0.001)
    stage.suspend()
    wait_for(lambda: not stage.is_running() and "JobState=PENDING" in asked(job))
    assert "Restarts=1" in asked(job)
    ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def begun(log: Path) -> int:
    """The update at which a training started, according to its progress bar; -1 if it has not started."""
    found = re.search(r" (\d+)/8 ", log.read_text()) if log.exists() else None
    return int(found[1]) if found else -1


def updates(checkpoint: Path) -> int:
    """The number of updates in a checkpoint."""
    with safe_open(checkpoint, "pt") as file:
        return len(json.loads(file.metadata()["losses"]))


def test_kills_on_the_cluster_change_nothing(finished, attentive):
    """In the last round: a job is killed, another preempted, and then Snakemake killed while that one runs again."""
    workflow = undone(attentive, first=2)
    logs, checkpoint = workflow.run_directory / "logs", workflow.run_directory / "round_002" / "train.checkpoint"
    with Controller(workflow) as controller:
        killed = controller.suspended("rollout", "--shard", "00")
        assert killed.environ()["CUDA_VISIBLE_DEVICES"] == "0"
        job = job_of(killed)
        assert "gpu:1" in asked(job) and "MinMemoryNode=8000M" in asked(job)
        killed.kill()
        again = controller.stage("rollout", "--shard", "00", another_job_than=job)
        assert "MinMemoryNode=16000M" in asked(job_of(again))

        train = controller.stage("train", "--round", "002")
        train.nice(19)  # so that it does not outrun this test
        wait_for(lambda: begun(logs / "train_002.log") == 0, pause=0.001)
        train.suspend()
        assert not checkpoint.exists()
        preempt(train, checkpoint)
        done = updates(checkpoint)
        assert 0 < done < 8

        train = controller.stage("train", "--round", "002")
        train.nice(19)
        wait_for(lambda: begun(logs / "train_002.log") == done, pause=0.001)
        train.suspend()
        job = job_of(train)
    assert train.is_running()  # Snakemake has been killed, its job has not
    workflow("--unlock")
    assert f"jobs left by a killed Snakemake: {job}" in workflow(*PROFILE, "data/runs/small/round_002/policy")

    assert not train.is_running()
    workflow()
    found, wanted = workflow.metrics(), finished.metrics()
    # The files of a Git repository name its commit.
    assert found.pop("disk") == pytest.approx(wanted.pop("disk"), rel=0.01)
    assert found == wanted
    assert workflow.pending() == {}
    data = workflow.directory / "data"
    assert [path for pattern in (".*tmp*", "*.checkpoint") for path in data.rglob(pattern)] == []


def test_training_on_two_nodes(attentive):
    """One rank on the GPU of each node gives the same losses to 1e-5."""
    workflow = attentive
    summary = workflow.run_directory / "round_001" / "train.json"
    alone = json.loads(summary.read_text())["losses"]
    target = str(summary.relative_to(workflow.directory))
    nodes = ("--set-resources", "train:nodes=2", "train:gres=gpu:1")
    with Controller(workflow, *nodes, "--force", "--", target) as controller:
        ranks = [controller.stage("train", RANK=str(rank), WORLD_SIZE="2").environ() for rank in range(2)]
        assert controller.process.wait(SECONDS) == 0
    assert {rank["SLURMD_NODENAME"] for rank in ranks} == {"node1", "node2"}
    assert json.loads(summary.read_text())["losses"] == pytest.approx(alone, rel=1e-5)


def test_repro_sends_its_jobs_to_the_cluster(attentive, monkeypatch: pytest.MonkeyPatch):
    """`dvc repro`: two evaluations and the report, which Snakemake and DVC both find finished afterwards."""
    attentive.section("evaluate", every=2)
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "profiles/slurm")
    before = set(all_jobs())
    attentive.dvc("repro")
    assert [state for job, state in all_jobs().items() if job not in before] == ["COMPLETED"] * 3
    monkeypatch.delenv("SNAKEMAKE_PROFILE")
    assert attentive.pending() == {}
    assert not attentive.stale()
