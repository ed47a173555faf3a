"""Enforces the shapes in signatures during tests; the order of the tests; small models and runs that they share."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small, and there are as many test processes as cores

import fcntl
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
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
from pipeline.settings.run import Run
from pipeline.settings.sections import ModelSection
from pipeline.tasks.base import Task
from tests.small_workflow import ROOT, Stage, Workflow

LONGEST = (
    *("test_slurm.py", "test_chat.py", "test_kills.py", "dvc/test_revisions.py", "test_devices.py", "test_exact.py"),
    *("runtime/test_compilation.py", "test_snakefile.py", "report/test_seed_average.py", "runtime/test_distributed.py"),
    *("test_own_reward.py", "dvc/test_staleness.py", "test_repeatable.py", "report/test_track.py"),
    *("test_benchmarks.py", "algorithms/test_tempering.py", "training/test_fine_tuning.py"),
    *("algorithms/test_block_causal.py",),
)
"""Files that take longest."""


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


@pytest.fixture
def stage(finished, tmp_path) -> Stage:
    return Stage(tmp_path, finished.run_directory)


@pytest.fixture
def line(stage: Stage, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """The error line with which the command of a stage stops, without the path of its directory."""

    def run(name: str, **changes: object) -> str:
        message = said(lambda: stage(stage.command(name, **changes)))
        assert all("%|" in text for text in capsys.readouterr().err.splitlines() if text), "only progress bars"
        assert not [path for path in stage.out.rglob("*") if path.suffix != ".checkpoint"]
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
