"""After a kill no process and no temporary file is left, and the next run ends with the same numbers.

`pytest tests/test_kills.py --kills 100` kills a hundred times at random moments.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import psutil

from tests.forks import SECONDS
from tests.processes import still_running
from tests.small_workflow import Workflow, undone

STAGES = ("prepare", "base", "rollout", "reference", "adjoint", "train", "evaluate", "report")
LONGEST = 6.0
"""Latest second of a kill after the first stage computes: a whole run takes this long on two idle cores."""


def computing(tree: list[psutil.Process], *stages: str) -> bool:
    """Whether the own process of one of these stages, or the fork that runs it, has started computing."""
    commands = {process.pid: process.cmdline() for process in tree}
    starts = [["-m", f"pipeline.stages.{stage}"] for stage in stages]
    if not any(module in command for command in commands.values() for _, module in starts):
        return False
    servers = [pid for pid, command in commands.items() if "serve" in command]
    workers = [process for process in tree if commands[process.pid][1:3] in starts or process.ppid() in servers]
    return any(process.cpu_times().user > 0.03 for process in workers)


def first_stage(running: subprocess.Popen[bytes]) -> None:
    """Wait until a stage computes, or the run has ended."""
    while running.poll() is None:
        with suppress(psutil.Error):
            tree = psutil.Process(running.pid).children(recursive=True)
            if computing(tree, *STAGES):
                return
        time.sleep(0.01)


def kill_in(workflow: Workflow, stage: str) -> None:
    """Start the workflow and kill its whole process group once the stage is computing.

    With `--nolock` there is no lock that `--unlock` would have to remove, which saves a start of Snakemake; the random
    kills leave theirs behind.
    """
    running = workflow.start("--cores", "1", "--nolock")
    deadline = time.monotonic() + SECONDS
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
    assert still_running(tree) == []


def strike(running: subprocess.Popen[bytes], rng: random.Random) -> str:
    """SIGKILL or SIGTERM to the whole process group or to one of its processes; wait until all of them have ended."""
    signum = rng.choice([signal.SIGKILL, signal.SIGTERM])
    snakemake = psutil.Process(running.pid)
    tree = [snakemake, *snakemake.children(recursive=True)]
    victim = rng.choice(tree) if rng.random() < 0.5 else None
    try:
        name = " ".join(victim.cmdline()[:6]) if victim else "all"
        os.killpg(running.pid, signum) if victim is None else victim.send_signal(signum)
    except psutil.NoSuchProcess:
        name = "none: it has just ended"
    running.wait(timeout=SECONDS)
    assert still_running(tree) == []  # a process that is importing PyTorch reacts only afterwards
    return f"{signum.name} to {name}"


def is_as_undisturbed(workflow: Workflow, finished: Workflow) -> None:
    """The same metrics bit for bit, the same files, and no temporary files (Snakemake leaves empty directories, and the
    file of its scheduler if it is killed just then)."""
    assert workflow.metrics() == finished.metrics()
    data = workflow.directory / "data"
    assert [path for pattern in (".*tmp*", "*.checkpoint") for path in data.rglob(pattern)] == []
    left = [path for path in (workflow.directory / "tmp").rglob("*") if not path.is_dir()]
    assert [path for path in left if not re.fullmatch(r"[0-9a-f]{32}-pulp\.\w+", path.name)] == []
    assert {path.relative_to(data) for path in data.rglob("*")} == {
        path.relative_to(finished.directory / "data") for path in (finished.directory / "data").rglob("*")
    }


def test_a_kill_in_every_stage_changes_nothing(finished, workflow):
    """One workflow is killed in every stage, one after the other, and continued each time."""
    for stage in STAGES:
        kill_in(workflow, stage)
    workflow()
    is_as_undisturbed(workflow, finished)


def test_a_stage_ends_with_its_shell(finished, copied):
    """Once a shard's shell is killed, Snakemake deletes its output; the stage must not write the file after that."""
    workflow = undone(copied, first=2)
    running, deadline, found = workflow.start(), time.monotonic() + SECONDS, {}
    while len(found) < 2:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
        for process in psutil.Process(running.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                command = process.cmdline()
                if "pipeline.stages.rollout" in command:
                    found[command[command.index("--shard") + 1]] = process
    caller, other = found["00"], found["01"]
    other.suspend()
    try:
        caller.parent().kill()
        assert still_running([caller]) == []
        time.sleep(3)
        assert not (workflow.run_directory / "round_002" / "rollouts" / "00.parquet").exists()
    finally:
        other.resume()
    assert running.wait(timeout=SECONDS) == 1
    workflow()
    is_as_undisturbed(workflow, finished)


def test_interrupts_change_nothing(finished, copied):
    """Ctrl-C at random moments of two rounds: Snakemake ends by itself and needs no --unlock afterwards."""
    workflow = undone(copied, first=1)
    rng, interrupts = random.Random(1), 0
    while interrupts < 2:
        running = workflow.start()
        first_stage(running)
        try:
            assert running.wait(timeout=rng.uniform(0, LONGEST)) == 0
            break
        except subprocess.TimeoutExpired:
            tree = psutil.Process(running.pid).children(recursive=True)
            os.killpg(running.pid, signal.SIGINT)
        ended_before = running.wait(timeout=SECONDS) == 0  # the interrupt came after the last job
        assert still_running(tree) == []
        interrupts += 1
        assert list((workflow.directory / ".snakemake" / "locks").glob("*")) == []
        if ended_before:
            break
    workflow()
    assert interrupts
    is_as_undisturbed(workflow, finished)


def test_random_kills_change_nothing(finished, tmp_path, pytestconfig):
    """`--kills` kills while stages compute, spread over whole runs; after each the run is unlocked and continued."""
    rng, left, attempt = random.Random(0), pytestconfig.getoption("kills"), 0
    while left:
        workflow = Workflow(tmp_path / str(attempt))
        workflow.directory.mkdir()
        done = False
        while not done:
            if not left:
                workflow()
                break
            running = workflow.start()
            first_stage(running)
            begun = time.monotonic()
            try:
                running.wait(timeout=rng.uniform(0, LONGEST))
            except subprocess.TimeoutExpired:
                print(f"{left} after {time.monotonic() - begun:.1f} s: {strike(running, rng)}", flush=True)
                left -= 1
            done = running.returncode == 0
            if not done:
                workflow("--unlock")
        is_as_undisturbed(workflow, finished)
        print(f"{left} left, the metrics are the same", flush=True)
        shutil.rmtree(workflow.directory)
        attempt += 1
