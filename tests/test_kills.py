"""SIGKILL in every stage: no process and no temporary file is left, and the next run ends with the same numbers."""

import os
import signal
import subprocess
import time

import psutil

from tests.conftest import Workflow

STAGES = ("prepare", "base", "rollout", "adjoint", "train", "evaluate", "report")


def computing(tree: list[psutil.Process], stage: str) -> bool:
    """Whether the stage's own process, or the fork that runs it, has begun its work."""
    commands = {process.pid: process.cmdline() for process in tree}
    if not any(f"pipeline.stages.{stage}" in command for command in commands.values()):
        return False
    servers = [pid for pid, command in commands.items() if "serve" in command]
    workers = [
        process
        for process in tree
        if commands[process.pid][1:3] == ["-m", f"pipeline.stages.{stage}"] or process.ppid() in servers
    ]
    return any(process.cpu_times().user > 0.1 for process in workers)


def kill_in(workflow: Workflow, stage: str) -> None:
    """Start the workflow and kill its whole process group once the stage is computing."""
    with (workflow.directory / "out").open("wb") as out:
        running = subprocess.Popen(
            workflow.command("--cores", "1"), cwd=workflow.directory, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + 300
    found = False
    while not found:
        assert running.poll() is None and time.monotonic() < deadline, (workflow.directory / "out").read_text()[-3000:]
        time.sleep(0.01)
        try:
            tree = psutil.Process(running.pid).children(recursive=True)
            found = computing(tree, stage)
        except psutil.Error:  # a process ended between two looks
            continue
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert psutil.wait_procs(tree, timeout=10)[1] == []


def test_a_kill_in_every_stage_changes_nothing(finished, workflow):
    """One directory, killed in stage after stage on its way through, has bit-identical metrics and no remains."""
    for stage in STAGES:
        kill_in(workflow, stage)
        workflow("--unlock")
    workflow()
    assert workflow.metrics() == finished.metrics()
    data = workflow.directory / "data"
    assert [path for pattern in (".*tmp*", "*.progress") for path in data.rglob(pattern)] == []
    assert {path.relative_to(data) for path in data.rglob("*")} == {
        path.relative_to(finished.directory / "data") for path in (finished.directory / "data").rglob("*")
    }
