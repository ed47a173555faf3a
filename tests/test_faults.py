"""What a user, a reward or a disk can do wrong is one line on the real command line of a stage."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import workflow as wf
from pipeline.params import parse_params
from tests.conftest import ROOT, SMALL

ARGUMENTS = {
    "prepare": "--out OUT/items",
    "rollout": "--items RUN/items/train.parquet --policy RUN/round_000/policy --round 1 --shard 0 --out OUT/00.parquet",
    "adjoint": "--rollouts RUN/round_001/rollouts/00.parquet RUN/round_001/rollouts/01.parquet"
    " --base RUN/round_000/policy --policy RUN/round_000/policy --out OUT/targets.parquet --summary OUT/adjoint.json",
    "train": "--targets RUN/round_002/targets/targets.parquet --policy RUN/round_002/policy --round 3"
    " --base RUN/round_000/policy --moments RUN/round_002/optimizer.safetensors"
    " --out OUT/policy --moments-out OUT/optimizer.safetensors"
    " --summary OUT/train.json --progress OUT/train.progress",
    "evaluate": "--items RUN/items/test.parquet --policy RUN/round_001/policy --round 1 --out OUT/evaluation.json",
    "report": "--run RUN --origin RUN --out OUT/report.html --figure OUT/learning_curve.svg --metrics OUT/metrics.json",
}


class Stage:
    """Stages on a copy of a finished run, which a test may damage: `run` is the copy, `out` takes the outputs."""

    def __init__(self, directory: Path, finished: Path):
        self.run, self.out = directory / "run", directory / "out"
        shutil.copytree(finished, self.run)

    def command(self, name: str, **changes: object) -> list[str]:
        settings = json.loads(wf.settings(parse_params(SMALL).runs["small"], name))
        places = {"RUN": str(self.run), "OUT": str(self.out)}
        arguments = [
            places.get(word.split("/")[0], word.split("/")[0]) + word[len(word.split("/")[0]) :]
            for word in ARGUMENTS[name].split()
        ]
        return [f"pipeline.stages.{name}", "--settings", json.dumps({**settings, **changes}), *arguments,
                "--timing", str(self.out / "timing.json"), "--threads", "1"]  # fmt: skip

    def __call__(self, command: list[str], file_size: int | None = None) -> subprocess.CompletedProcess:
        """Run it; with `file_size`, writing more than so many bytes to a file fails as it does on a full disk."""

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

        return subprocess.run(
            [sys.executable, *(["-m"] if command[0].startswith("pipeline") else []), *command],
            cwd=self.run.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
            preexec_fn=None if file_size is None else limit,
            capture_output=True,
            text=True,
            check=False,
        )

    def fails(self, command: list[str], *parts: str, file_size: int | None = None) -> None:
        done = self(command, file_size)
        lines = [line for line in done.stderr.splitlines() if line and "%|" not in line]  # no progress bars
        assert done.returncode == 1 and len(lines) == 1, done.stderr
        assert lines[0].startswith("error: ")
        assert all(part.replace("OUT", str(self.out)) in lines[0] for part in parts), lines[0]
        assert not list(self.run.parent.rglob(".*.tmp"))


@pytest.fixture
def stage(finished, tmp_path) -> Stage:
    return Stage(tmp_path, finished.run_directory)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("prepare", {"seeds": 1}, "unknown key 'seeds': did you mean 'seed'?"),
        ("prepare", {"task": {"name": "sudoku", "test_item": 1}}, "unknown key 'test_item': did you mean 'test_items'"),
        ("prepare", {"task": {"name": "sudok"}}, "unknown task 'sudok': did you mean 'sudoku'?"),
        ("prepare", {"task": {"name": "mine.missing"}}, "cannot import task 'mine.missing': ModuleNotFoundError"),
    ],
)
def test_settings(stage, name, changes, message):
    stage.fails(stage.command(name, **changes), message)


def test_settings_that_are_no_json(stage):
    command = stage.command("prepare")
    command[2] = command[2][:-1]
    stage.fails(command, "--settings is not JSON")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'reward': float('nan')}", "the reward is nan, not a finite number, on item "),
        ("return {'reward': -float('inf')}", "the reward is -inf, not a finite number, on item "),
        ("raise ValueError('first line\\nsecond line')", "the reward raised ValueError: first line second line on "),
        ("return", "the score is None, not a mapping, on item "),
        ("return {'reward': 'high'}", "the reward is 'high', not a finite number, on item "),
    ],
)
def test_rewards(stage, body, message):
    """The item and the text are named."""
    module = stage.run.parent / "mine" / "task.py"
    module.parent.mkdir()
    module.write_text(
        "from dataclasses import replace\nfrom pipeline.tasks.sudoku import PLUGIN\n\n"
        f"def score(item, answer):\n    {body}\n\nPLUGIN = replace(PLUGIN, score=score)\n"
    )
    stage.fails(stage.command("rollout", task={"name": "mine.task"}), message, "(prompt '", "answer '")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another_architecture(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "gpt2"}))


def another_size(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 32}))


def not_a_number(path: Path) -> None:
    table = pq.read_table(path)
    rewards = [float("nan"), *table["reward"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index("reward"), "reward", pa.array(rewards)), path)


@pytest.mark.parametrize(
    ("name", "file", "damage", "message"),
    [
        ("rollout", "items/train.parquet", halve, "is not a complete Parquet file"),
        ("adjoint", "round_001/rollouts/01.parquet", not_a_number, ", row 0: reward nan is not a finite number"),
        ("rollout", "round_000/policy/config.json", another_architecture, "holds the architecture 'gpt2', not 'llada'"),
        ("rollout", "round_000/policy/config.json", another_size, "mismatched keys: "),
        ("rollout", "round_000/policy/model.safetensors", halve, "cannot load the weights"),
        ("rollout", "round_000/policy/tokenizer.json", halve, "is not a tokenizer"),
        ("train", "round_002/optimizer.safetensors", halve, "is not a complete safetensors file"),
        ("report", "round_001/adjoint.json", halve, "cannot read "),
        ("report", "round_001/adjoint.json", Path.unlink, "cannot read "),
    ],
)
def test_files(stage, name, file, damage: Callable[[Path], None], message):
    path = stage.run / file
    damage(path)
    stage.fails(stage.command(name), message, str(path.parent if path.parent.name == "policy" else path))


@pytest.mark.parametrize(
    ("name", "file_size", "file"),
    [
        ("prepare", 100, "items/base.parquet"),
        ("rollout", 100, "00.parquet"),
        ("adjoint", 100, "targets.parquet"),
        ("train", 100, "policy"),
        ("train", 50_000, "optimizer.safetensors"),
        ("evaluate", 100, "evaluation.json"),
        ("report", 100, "report.html"),
    ],
)
def test_full_disk(stage, name, file_size, file):
    stage.fails(stage.command(name), f"cannot write OUT/{file}: ", file_size=file_size)
    assert not (stage.out / file).exists()


@pytest.mark.parametrize("name", ["prepare", "train", "report"])
def test_unwritable_output(stage, name):
    stage.out.touch()
    stage.fails(stage.command(name), "Not a directory")
