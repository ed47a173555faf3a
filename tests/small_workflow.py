"""A workflow that takes seconds: the whole of it by the real Snakemake, or single stages on its files."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.settings.inheritance import merge
from pipeline.settings.params_file import parse_params
from pipeline.settings.stages import settings_json
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
        """Run to the end and return the output. Its temporary files go to where those of `start` are, if it ran."""
        place = {"TMPDIR": str(self.directory / "tmp")} if (self.directory / "tmp").exists() else {}
        done = forks().run("snakemake", self.command(*arguments)[3:], self.directory, {**os.environ, **place})
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


def undone(workflow: Workflow, first: int) -> Workflow:
    """Remove the rounds from `first` on, and the report."""
    for number in range(first, 3):
        shutil.rmtree(workflow.run_directory / f"round_{number:03d}")
    for name in ("report.html", "metrics.json", "learning_curve.svg"):
        (workflow.run_directory / name).unlink()
    return workflow


ARGUMENTS = {
    "prepare": "--out OUT/items",
    "base": '--items RUN/items/base.parquet --limits {"train":[["",16]],"held_out":[["",16]]}'
    " --out OUT/policy --summary OUT/train.json --checkpoint OUT/train.checkpoint",
    "rollout": "--items RUN/items/train.parquet --policy RUN/round_000/policy --round 1 --shard 0 --out OUT/00.parquet",
    "reference": "--rollouts RUN/round_001/rollouts/00.parquet --base RUN/round_000/policy --round 1 --shard 0"
    " --replay 64 --out OUT/00.parquet",
    "adjoint": "--rollouts RUN/round_001/rollouts/00.parquet RUN/round_001/rollouts/01.parquet"
    " --references RUN/round_001/references/00.parquet RUN/round_001/references/01.parquet"
    " --policy RUN/round_000/policy --round 1 --out OUT/targets.parquet --summary OUT/adjoint.json",
    "train": "--targets RUN/round_002/targets/targets.parquet --policy RUN/round_001/policy --round 2"
    " --base RUN/round_000/policy --optimizer RUN/round_001/optimizer.safetensors"
    " --out OUT/policy --optimizer-out OUT/optimizer.safetensors"
    " --summary OUT/train.json --checkpoint OUT/train.checkpoint",
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
