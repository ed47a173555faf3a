"""The small workflow as a Git repository with a DVC remote."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, made_once
from tests.forks import SECONDS, forks
from tests.small_workflow import Workflow

FILES = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "Snakefile", "dvc.yaml")


class Repository(Workflow):
    """A Git repository of the small workflow with a DVC remote beside it."""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]

    def run(self, *command: str, ok: bool = True) -> str:
        where = self.process()
        if command[:2] == (sys.executable, "-m"):
            done = forks().run(command[2], command[3:], where["cwd"], where["env"])
        else:
            done = subprocess.run(command, **where, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert (done.returncode == 0) == ok, (done.stdout + done.stderr)[-4000:]
        return done.stdout if ok else done.stdout + done.stderr

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
def reproduced(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The finished workflow, recorded by `dvc repro`, committed and pushed."""
    made = made_once(tmp_path_factory, "dvc", lambda directory: reproduce(directory / "work", finished))
    return Repository(made / "work")


def reproduce(directory: Path, finished: Workflow) -> None:
    """A repository and its remote; what has been computed is not computed again."""
    shutil.copytree(finished.directory / "data", directory / "data")
    repository = Repository(directory)
    for name in FILES:
        (directory / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, directory / name)
    for name in ("pipeline", "profiles"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    repository.configure()
    repository.run("git", "init", "-q", "-b", "main")
    repository.run("git", "config", "user.email", "test@example.com")
    repository.run("git", "config", "user.name", "Test")
    repository.dvc("remote", "add", "--default", "shelf", str(directory.parent / "shelf"))
    repository.dvc("repro")
    repository.commit("small")
    repository.dvc("push")
    base = Path("timings", "base.json")
    assert (repository.run_directory / base).read_text() == (finished.run_directory / base).read_text()


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
    repository.dvc("pull")
    return repository
