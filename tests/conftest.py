"""Shapes in signatures are enforced under test; the small models and runs that several tests share."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from jaxtyping import install_import_hook

with install_import_hook(
    ["pipeline.ctmc", "pipeline.losses", "pipeline.samplers", "pipeline.replay"], "beartype.beartype"
):
    import pipeline.ctmc.diffusion
    import pipeline.ctmc.exact
    import pipeline.ctmc.uniform
    import pipeline.replay
    import pipeline.samplers.enumeration
    import pipeline.samplers.rounds  # noqa: F401

import torch

from pipeline.config import Model, Run
from pipeline.models.llada import create

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
"""A whole workflow in seconds; it learns nothing."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=6, help="how often test_kills.py kills at random")


class Workflow:
    """A real Snakemake on a directory of its own."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.params = json.loads(json.dumps(SMALL))
        self.run_directory = directory / "data" / "runs" / "small"

    def command(self, *arguments: str) -> list[str]:
        (self.directory / "params.yaml").write_text(yaml.safe_dump(self.params))
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        return [*snakemake, "--rerun-incomplete", "--directory", str(self.directory), *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it as a process group of its own; its output is in `out`, its temporary files in `tmp`."""
        (self.directory / "tmp").mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(self.directory / "tmp")}
        command = self.command(*arguments)
        with (self.directory / "out").open("wb") as out:
            return subprocess.Popen(
                command, cwd=self.directory, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    def __call__(self, *arguments: str, ok: bool = True) -> str:
        """Run to the end; returns what was printed."""
        done = subprocess.run(
            self.command(*arguments), cwd=self.directory, capture_output=True, text=True, timeout=600, check=False
        )
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, output[-4000:]
        return output

    def pending(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a run would do, `all` left out."""
        table = {}
        for line in self("--dry-run", *arguments).splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit() and words[0] not in ("all", "total"):
                table[words[0]] = int(words[1])
        return table

    def metrics(self) -> dict:
        """metrics.json without what differs between equal runs: the clock and the commit."""
        metrics = json.loads((self.run_directory / "metrics.json").read_text())
        for key in ("time", "git"):
            del metrics[key]
        for entry in metrics["rounds"]:
            del entry["seconds"], entry["cpu_seconds"]
        return metrics


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The small workflow, run once; tests that change something copy it."""
    workflow = Workflow(tmp_path_factory.mktemp("finished"))
    workflow()
    return workflow


@pytest.fixture(scope="session")
def sections() -> SimpleNamespace:
    """Every section of a run with its defaults."""
    run = Run()
    return SimpleNamespace(**{name: getattr(run, name) for name in Run.model_fields})


def llada(vocabulary: int, mask_id: int, seed: int = 0, **sizes: float) -> torch.nn.Module:
    """A small LLaDA with fresh weights, large enough for posteriors that differ between states."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return create(Model(**{**shape, "initializer_range": 0.5, **sizes}), vocabulary, mask_id).eval()
