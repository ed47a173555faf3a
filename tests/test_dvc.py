"""Real Git, DVC and Snakemake on the small workflow: what is stale, for both, after what."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.persistence.file import FilePersistence

from pipeline import seal, workflow
from pipeline.config import Params, Run
from tests.conftest import ROOT, Workflow

TRACKED = (
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    "Snakefile",
    "dvc.yaml",
    "pipeline",
    "profiles",
)
LAST_ROUND = {"rollout": 2, "adjoint": 1, "train": 1, "evaluate": 1, "report": 1}
EVERYTHING = {"prepare": 1, "base": 1, "rollout": 4, "adjoint": 2, "train": 2, "evaluate": 3, "report": 1}


class Repository(Workflow):
    """A Git repository of the small workflow with a DVC remote beside it."""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]

    def run(self, *command: str, ok: bool = True) -> str:
        done = subprocess.run(
            command,
            **self.process(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert (done.returncode == 0) == ok, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    def process(self) -> dict[str, Any]:
        """Where and how its commands run."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "DVC_SITE_CACHE_DIR": str(self.directory.parent / "site")}
        environment.pop("PYTHONPATH", None)
        return {"cwd": self.directory, "env": environment}

    def dvc(self, *arguments: str, ok: bool = True) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, ok=ok)

    def commit(self, message: str) -> None:
        self.run("git", "add", ".")
        self.run("git", "commit", "-qm", message)

    def configure(self) -> None:
        (self.directory / "params.yaml").write_text(yaml.safe_dump(self.params))

    def stale(self) -> bool:
        """Whether `dvc repro` would run the stage."""
        return json.loads(self.dvc("status", "--json")) != {}

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.directory / path).read_text()
        assert old in text
        (self.directory / path).write_text(text.replace(old, new))

    def section(self, name: str, **changes: object) -> None:
        self.params["defaults"].setdefault(name, {}).update(changes)
        self.configure()


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """`dvc repro` from nothing, committed and pushed."""
    directory = tmp_path_factory.mktemp("dvc") / "work"
    directory.mkdir()
    repository = Repository(directory)
    for name in TRACKED:
        (directory / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, directory / name)
    repository.configure()
    repository.run("git", "init", "-q", "-b", "main")
    repository.run("git", "config", "user.email", "test@example.com")
    repository.run("git", "config", "user.name", "Test")
    repository.dvc("remote", "add", "--default", "shelf", str(directory.parent / "shelf"))
    repository.dvc("repro")
    repository.commit("small")
    repository.dvc("push")
    return repository


@pytest.fixture
def repository(reproduced: Repository, tmp_path: Path) -> Repository:
    """A copy to change."""
    shutil.copytree(reproduced.directory, tmp_path / "work", symlinks=True)
    return Repository(tmp_path / "work")


@pytest.fixture
def clone(reproduced: Repository, tmp_path: Path) -> Repository:
    """A fresh clone with what was pushed."""
    subprocess.run(["git", "clone", "-q", str(reproduced.directory), str(tmp_path / "clone")], check=True)
    repository = Repository(tmp_path / "clone")
    repository.run("git", "config", "user.email", "test@example.com")
    repository.run("git", "config", "user.name", "Test")
    repository.dvc("pull")
    return repository


def test_the_stage_names_all_that_the_keys_of_the_snakefile_see():
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["run"]
    assert set(stage["deps"]) == {"Snakefile", "pipeline"}
    assert set(stage["params"]) == {"defaults", "runs.${default_run}"}
    assert set(Params.model_fields) == {"default_run", "defaults", "runs", "suites", "hardware"}
    assert all(set(sections) <= set(Run.model_fields) for sections in workflow.SECTIONS.values())
    assert {path["persist"] for out in stage["outs"] for path in out.values()} == {True}


def touch(repository: Repository) -> None:
    for path in sorted(repository.run_directory.rglob("*"), reverse=True):
        path.touch()


def edit_by_hand(repository: Repository) -> None:
    path = repository.run_directory / "round_001" / "targets" / "targets.parquet"
    path.write_bytes(path.read_bytes() + b"PAR1")


def train_code(repository: Repository) -> None:
    repository.replace("pipeline/stages/train.py", "warmup = 0\n", "warmup = 1\n")


def undone(repository: Repository) -> None:
    train_code(repository)
    assert repository.pending()
    repository.replace("pipeline/stages/train.py", "warmup = 1\n", "warmup = 0\n")


def another_run(repository: Repository) -> None:
    repository.params["runs"]["other"] = {"seed": 1}
    repository.configure()


def more_rounds(repository: Repository) -> None:
    repository.params["defaults"]["rounds"] = 3
    repository.configure()


def hardware(repository: Repository) -> None:
    repository.params["hardware"] = {"processes": 2, "threads": 2, "preload": False}
    repository.configure()


FROM_TRAIN = {"rollout": 2, "adjoint": 1, "train": 2, "evaluate": 2, "report": 1}
CONTRACT: dict[str, tuple[Callable[[Repository], object], dict[str, int], bool]] = {
    "nothing": (lambda repository: None, {}, False),
    "touched outputs": (touch, {}, False),
    "touched code": (lambda r: (r.directory / "pipeline" / "training.py").touch(), {}, False),
    "comment in params.yaml": (lambda r: r.replace("params.yaml", "hardware:", "# few\nhardware:"), {}, False),
    "hardware": (hardware, {}, False),
    "another run": (another_run, {}, False),
    # DVC compares the bytes of code: it starts Snakemake, which finds nothing to do.
    "comment in code": (lambda r: r.replace("pipeline/training.py", "\ndef ", "\n# why\ndef "), {}, True),
    "code of train": (train_code, FROM_TRAIN, True),
    "code of train, undone": (undone, {}, False),
    "evaluation setting": (lambda r: r.section("evaluate", batch_size=8), {"evaluate": 3, "report": 1}, True),
    "one more round": (more_rounds, LAST_ROUND, True),
    "learning rate": (lambda r: r.section("train", lr=2e-3), FROM_TRAIN, True),
    "source data": (lambda r: r.section("task", train_items=400), EVERYTHING, True),
    "output edited by hand": (edit_by_hand, {**LAST_ROUND, "train": 2, "evaluate": 2}, True),
}


@pytest.mark.parametrize("edit", CONTRACT)
def test_snakemake_and_dvc_agree_on_what_is_stale(repository, edit):
    change, pending, stale = CONTRACT[edit]
    change(repository)
    assert (repository.stale(), repository.pending()) == (stale, pending)


def test_a_clone_has_nothing_to_do_and_knows_what_an_edit_makes_stale(clone):
    assert clone.pending() == {}
    assert not clone.stale()
    assert "up to date" in clone.dvc("repro")
    clone.section("evaluate", batch_size=8)
    assert clone.pending() == {"evaluate": 3, "report": 1}


def test_older_revisions_there_and_back(repository):
    repository.section("evaluate", batch_size=8)
    repository("--quiet")
    assert "small" in repository.dvc("repro")
    repository.commit("batches of 8")
    for revision in ("HEAD~1", "main"):
        repository.run("git", "checkout", "-q", revision)
        assert repository.pending() == {"evaluate": 3, "report": 1}, "outputs of the other revision"
        repository.dvc("checkout")
        assert repository.pending() == {}
        assert not repository.stale()
    difference = json.loads(repository.dvc("metrics", "diff", "HEAD~1", "main", "--json"))[
        "data/runs/small/metrics.json"
    ]
    assert set(difference) <= {"git", "time.computing", "time.waiting", "time.waiting_share", "time.cpu_seconds"}


def test_metrics_and_plots_of_a_revision(reproduced):
    """`dvc metrics` shows the headline numbers; the rest of metrics.json lies in lists."""
    (entry,) = json.loads(reproduced.dvc("metrics", "show", "--json"))[""]["data"].values()
    scalars = [key for key, value in entry["data"].items() if not isinstance(value, list)]
    assert scalars == ["run", "git", "base", "final", "time"]
    assert "data/runs/small/learning_curve.svg" in json.loads(reproduced.dvc("plots", "show", "--json"))["data"]


def test_outputs_that_no_seal_describes_are_not_trusted(clone):
    (clone.run_directory / "round_001" / "policy" / "model.safetensors").write_bytes(b"of whom?")
    assert "error: data/runs/small/round_001/policy/model.safetensors is not what" in clone(ok=False)
    clone.dvc("checkout", "--force")
    assert clone.pending() == {}


def test_a_killed_repro_goes_on_where_it_was(repository):
    repository.params["defaults"]["seed"] = 1
    repository.configure()
    base, rollout = (repository.run_directory / "timings" / f"{name}.json" for name in ("base", "rollout_001_00"))
    before = rollout.read_text()
    running = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], **repository.process(), start_new_session=True)
    deadline = time.monotonic() + 300
    while not rollout.exists() or rollout.read_text() == before:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    done = base.read_text()
    repository("--unlock")
    repository.dvc("repro")
    assert base.read_text() == done
    assert repository.pending() == {}
    assert not repository.stale()


def test_an_experiment_recomputes_what_its_setting_changes(repository):
    base = (repository.run_directory / "timings" / "base.json").read_text()
    train = (repository.run_directory / "timings" / "train_001.json").read_text()
    repository.dvc("exp", "run", "--temp", "--name", "short", "--set-param", "defaults.train.updates=4")
    assert repository.pending() == {}
    repository.dvc("exp", "apply", "short")
    assert repository.pending() == {}
    assert not repository.stale()
    assert (repository.run_directory / "timings" / "base.json").read_text() == base
    assert (repository.run_directory / "timings" / "train_001.json").read_text() != train


def test_the_seal_holds_a_record_of_every_output(reproduced):
    """All that is used of Snakemake's format: one file per output, named by its path."""
    records = json.loads((reproduced.run_directory / seal.SEAL).read_text())["records"]
    outputs = {"prepare": 5, "base": 3, "rollout": 2, "adjoint": 3, "train": 4, "evaluate": 2, "report": 4}
    assert len(records) == sum(jobs * outputs[rule] for rule, jobs in EVERYTHING.items())


def test_records_with_long_names_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    persistence = FilePersistence(path=tmp_path / ".snakemake")
    for path in (f"data/runs/mine/{'long/' * 60}x", "data/runs/mine2/x"):
        record = Path(persistence._record_path(tmp_path / ".snakemake" / "metadata", path))
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(path)
    (record,) = seal._records("mine", "metadata")
    assert record.read_text().startswith("data/runs/mine/long/")
