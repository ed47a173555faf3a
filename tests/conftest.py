"""Enforces the shapes in signatures during tests; small models and runs that several tests share."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small, and there are as many test processes as cores

import fcntl
import json
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jaxtyping import install_import_hook

with install_import_hook(
    [
        "pipeline.ctmc",
        "pipeline.samplers",
        "pipeline.training.replay_buffer",
        "tests.derivations.diffusion",
        "tests.derivations.uniform",
    ],
    "beartype.beartype",
):
    import pipeline.ctmc.exact
    import pipeline.ctmc.losses
    import pipeline.samplers.enumeration
    import pipeline.samplers.round_states
    import pipeline.training.replay_buffer  # noqa: F401
    import tests.derivations.diffusion
    import tests.derivations.uniform  # noqa: F401

import torch

from pipeline.plugins import load_model, load_task, resolve_task
from pipeline.settings.inheritance import merge
from pipeline.settings.params_file import parse_params
from pipeline.settings.run import Run
from pipeline.settings.sections import ModelSection
from pipeline.settings.stages import settings_json
from pipeline.tasks.base import Task
from tests.forks import forks

ROOT = Path(__file__).parent.parent

SMALL = {
    "default_run": "small",
    "defaults": {
        "rounds": 2,
        "task": {"name": "sudoku", "base_items": 2000, "train_items": 500, "test_items": 64, "hard_items": 16},
        "model": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        "base": {"updates": 60, "batch_size": 32, "lr": 1e-2},
        "rollout": {"prompts": 16, "completions": 4, "batch_size": 16},
        "algorithm": {"largest_step": 40},
        "train": {"updates": 8, "batch_size": 32},
        "evaluate": {"every": 1},
    },
    "runs": {"small": {}},
    "keep": {"optimizer": "all"},
    "hardware": {"processes": 1, "threads": 1},
}
"""A complete workflow that takes seconds; too short to learn anything."""

LONGEST = (
    *("test_slurm.py", "test_chat.py", "test_exact.py", "test_kills.py", "test_devices.py", "test_own_reward.py"),
    *("dvc/test_revisions.py", "dvc/test_staleness.py"),
)
"""Files that take longest, the first mostly waiting: while it waits, another process has both cores."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="number of random kills in test_kills.py")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist hands out files in the order below
        config.option.loadscopereorder = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts programs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else the Snakemakes of tests ignore it too


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """The longest files first, then those that run the workflow: so no process ends long after the others."""
    own = (ROOT / "tests", ROOT / "tests" / "dvc")
    slow = {item.path for item in items if item.path.parent in own or {"workflow", "finished"} & {*item.fixturenames}}
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (place.get(item.path, len(place)), item.path not in slow))


class Workflow:
    """Runs the real Snakemake in a directory of its own."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.params = json.loads(json.dumps(SMALL))
        self.said = ""
        self.run_directory = directory / "data" / "runs" / "small"

    def command(self, *arguments: str) -> list[str]:
        (self.directory / "params.yaml").write_text(yaml.safe_dump(self.params))
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        return [*snakemake, "--rerun-incomplete", "--directory", str(self.directory), *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it in its own process group; its output goes to `out`, its temporary files to `tmp`."""
        (self.directory / "tmp").mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(self.directory / "tmp")}
        command = self.command(*arguments)
        with (self.directory / "out").open("wb") as out:
            return subprocess.Popen(
                command, cwd=self.directory, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    def __call__(self, *arguments: str, ok: bool = True) -> str:
        """Run to the end and return the output."""
        done = forks().run("snakemake", self.command(*arguments)[3:], self.directory, os.environ)
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, output[-4000:]
        return output

    def pending(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a run would do, without rule `all`."""
        table = {}
        for line in self("--dry-run", *arguments).splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit() and words[0] not in ("all", "total"):
                table[words[0]] = int(words[1])
        return table

    def metrics(self) -> dict:
        """metrics.json without the times and the commit, which differ between otherwise equal runs."""
        metrics = json.loads((self.run_directory / "metrics.json").read_text())
        for key in ("time", "git"):
            del metrics[key]
        for entry in metrics["rounds"]:
            del entry["seconds"], entry["cpu_seconds"]
        return metrics


ARGUMENTS = {
    "prepare": "--out OUT/items",
    "base": '--items RUN/items/base.parquet --limits {"train":[["",16]],"held_out":[["",16]]}'
    " --out OUT/policy --summary OUT/train.json --progress OUT/train.progress",
    "rollout": "--items RUN/items/train.parquet --policy RUN/round_000/policy --round 1 --shard 0 --out OUT/00.parquet",
    "reference": "--rollouts RUN/round_001/rollouts/00.parquet --base RUN/round_000/policy --round 1 --shard 0"
    " --replay 64 --out OUT/00.parquet",
    "adjoint": "--rollouts RUN/round_001/rollouts/00.parquet RUN/round_001/rollouts/01.parquet"
    " --references RUN/round_001/references/00.parquet RUN/round_001/references/01.parquet"
    " --policy RUN/round_000/policy --round 1 --out OUT/targets.parquet --summary OUT/adjoint.json",
    "train": "--targets RUN/round_002/targets/targets.parquet --policy RUN/round_001/policy --round 2"
    " --base RUN/round_000/policy --optimizer RUN/round_001/optimizer.safetensors"
    " --out OUT/policy --optimizer-out OUT/optimizer.safetensors"
    " --summary OUT/train.json --progress OUT/train.progress",
    "decode": "--items RUN/items/test.parquet --policy RUN/round_001/policy --round 1 --shard 0 --out OUT/00.parquet",
    "evaluate": "--items RUN/items/test.parquet --policy RUN/round_001/policy --round 1 --out OUT/evaluation.json",
    "report": "--run RUN --origin RUN --out OUT/report.html --figure OUT/learning_curve.svg --metrics OUT/metrics.json"
    " --summary OUT/summary.json --curve OUT/curve.json",
}


class Stage:
    """Runs stages on a copy of a finished run that a test may damage: `run` is the copy, `out` receives the outputs."""

    def __init__(self, directory: Path, finished: Path):
        self.run, self.out = directory / "run", directory / "out"
        shutil.copytree(finished, self.run)

    def command(self, name: str, **changes: object) -> list[str]:
        settings = merge(json.loads(settings_json(parse_params(SMALL).runs["small"], name)), changes)
        places = {"RUN": str(self.run), "OUT": str(self.out)}
        arguments = [
            places.get(word.split("/")[0], word.split("/")[0]) + word[len(word.split("/")[0]) :]
            for word in ARGUMENTS[name].split()
        ]
        return [f"pipeline.stages.{name}", "--settings", json.dumps(settings), *arguments,
                "--timing", str(self.out / "timing.json"), "--threads", "1"]  # fmt: skip

    def __call__(self, command: list[str]) -> None:
        """Run it in this process, as `python -m` would: SystemExit with the line of an error."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.run.parent)
            patch.syspath_prepend(self.run.parent)
            patch.setattr(sys, "argv", command)
            runpy.run_module(command[0], run_name="__main__")


def said(command: Callable[[], object]) -> str:
    """The one-line error with which a command stops, without "error: "; it goes through `sys.exit`."""
    with pytest.raises(SystemExit) as stop:
        command()
    line = stop.value.code
    assert isinstance(line, str) and line.startswith("error: ") and "\n" not in line
    return line.removeprefix("error: ")


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A directory that all pytest processes of a test run share: the first to ask makes it, others wait for it.

    Tests read it or copy it; nothing may run in it, since another process may be copying it at that moment.
    """
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    directory, done = shared / name, shared / f"{name}-done"
    with (shared / f"{name}-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            done.touch()
    return directory


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The small workflow, run once, with what it `said`."""

    def make(directory: Path) -> None:
        said = Workflow(directory)()
        (directory / "said").write_text(said, encoding="utf-8")

    workflow = Workflow(made_once(tmp_path_factory, "finished", make))
    workflow.said = (workflow.directory / "said").read_text(encoding="utf-8")
    return workflow


@pytest.fixture
def copied(finished: Workflow, tmp_path: Path) -> Workflow:
    """A copy of it to change or to go on with."""
    shutil.copytree(finished.directory, tmp_path / "copy", symlinks=True)
    return Workflow(tmp_path / "copy")


def undone(workflow: Workflow, first: int) -> Workflow:
    """Remove the rounds from `first` on, and the report."""
    for number in range(first, 3):
        shutil.rmtree(workflow.run_directory / f"round_{number:03d}")
    for name in ("report.html", "metrics.json", "learning_curve.svg"):
        (workflow.run_directory / name).unlink()
    return workflow


@pytest.fixture
def stage(finished, tmp_path) -> Stage:
    return Stage(tmp_path, finished.run_directory)


@pytest.fixture
def line(stage: Stage, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """The error line with which the command of a stage stops, without the path of its directory."""

    def run(name: str, **changes: object) -> str:
        message = said(lambda: stage(stage.command(name, **changes)))
        assert all("%|" in text for text in capsys.readouterr().err.splitlines() if text), "only progress bars"
        assert not [path for path in stage.out.rglob("*") if path.suffix != ".progress"]
        assert not list(stage.run.parent.rglob(".*.tmp"))
        return message.replace(f"{stage.run.parent}/", "")

    return run


@pytest.fixture(scope="session")
def sections() -> Run:
    """Every section of a run with its defaults."""
    return Run()


def task_of(name: str, **settings: object) -> Task:
    """The task with these settings, as in its section of params.yaml."""
    return resolve_task(load_task(name).settings(name=name, **settings))


def llada(vocabulary: int, mask_id: int, seed: int = 0, **sizes: float) -> torch.nn.Module:
    """A small LLaDA with random weights large enough that posteriors differ between states."""
    return of_family("llada", vocabulary, mask_id, seed, **sizes)


def of_family(name: str, vocabulary: int, mask_id: int, seed: int = 0, **sizes: float) -> torch.nn.Module:
    """As `llada`, of any family."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    section = ModelSection(**{**shape, "initializer_range": 0.5, **sizes})
    return load_model(name).create(section, vocabulary, mask_id, 0).eval()
