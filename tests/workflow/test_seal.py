"""A seal from a DVC remote sets times of its own run's files, and nothing else."""

import json
import os
from itertools import count
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.storage.atomic_files import sha256_of
from pipeline.workflow import seal

RUN = Path("data/runs/mine")
TIMES = count(10**18, 10**9)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one run of one file, beside something that a seal has nothing to do with."""
    (tmp_path / "work" / RUN).mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (RUN / "x").write_text("x")
    return tmp_path


def put(name: str, text: str) -> int:
    """Write a file of the run, as a stage does or DVC brings it; its time. Two files written at once may have the same
    time on a file system: here each write has its own."""
    (RUN / name).parent.mkdir(parents=True, exist_ok=True)
    (RUN / name).write_text(text)
    os.utime(RUN / name, ns=(time := next(TIMES), time))
    return time


def write(files: dict[str, object]) -> None:
    """A seal as a remote might hold it."""
    (RUN / seal.SEAL).write_text(json.dumps({"files": files}))


def everything(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


def test_times_come_back_to_the_same_bytes_alone():
    time = put("x", "x")
    put("y", "y")
    seal.seal("mine")
    sealed = (RUN / seal.SEAL).read_bytes()
    put("x", "x")
    edited = put("y", "edited")
    seal.restore("mine")
    assert ((RUN / "x").stat().st_mtime_ns, (RUN / "y").stat().st_mtime_ns) == (time, edited)
    put("y", "y")
    seal.restore("mine")
    seal.seal("mine")
    assert (RUN / seal.SEAL).read_bytes() == sealed


@pytest.mark.parametrize("stage", ["ran again", "is new", "is gone"])
def test_after_a_stage_has_run_here_times_stay(stage):
    put("timings/base.json", "1")
    seal.seal("mine")
    time = put("x", "x")
    if stage == "ran again":
        put("timings/base.json", "2")
    elif stage == "is new":
        put("timings/train_001.json", "1")
    else:
        (RUN / "timings" / "base.json").unlink()
    seal.restore("mine")
    assert (RUN / "x").stat().st_mtime_ns == time


@pytest.mark.parametrize(
    ("name", "may_go"),
    [
        ("report.html", False),
        ("round_001/policy/model.safetensors", False),
        ("round_001/rollouts/00.parquet", True),
        ("round_001/optimizer.safetensors", True),
        ("logs/base.log", True),
    ],
)
def test_a_finished_run_that_lost_a_file_is_not_sealed(name, may_go):
    (RUN / name).parent.mkdir(parents=True, exist_ok=True)
    (RUN / name).write_text("y")
    seal.seal("mine")
    (RUN / name).unlink()
    if may_go:
        seal.seal("mine")
    else:
        with pytest.raises(PipelineError, match=rf"^data/runs/mine/{name} is gone"):
            seal.seal("mine")


@pytest.mark.parametrize("name", ["../other/x", "../../../../outside/x", "{directory}/outside/x", "link/x"])
def test_files_stay_in_the_directory_of_the_run(directory, name):
    (directory / "outside" / "x").write_text("x")
    (RUN.parent / "other").mkdir()
    (RUN.parent / "other" / "x").write_text("x")
    (RUN / "link").symlink_to(directory / "outside")
    times = {path: path.stat().st_mtime_ns for path in everything(directory)}
    file = {"time": 10**18, "sha256": sha256_of(RUN / "x")}
    write({"x": file, name.format(directory=directory): file})
    seal.restore("mine")
    assert times.pop(Path.cwd() / RUN / "x") != (RUN / "x").stat().st_mtime_ns == 10**18
    del times[Path.cwd() / RUN]
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_seal_that_cannot_be_read_is_named():
    """Snakemake would print a traceback."""
    (RUN / seal.SEAL).mkdir()
    with pytest.raises(PipelineError, match=r"cannot read data/runs/mine/seal.json, or set its time: Is a directory"):
        seal.restore("mine")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"files": []}', '{"files": {"x": {"time": -1, "sha256": ""}}}', "\ud800"],
)
def test_what_is_no_seal_is_refused(text):
    (RUN / seal.SEAL).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(PipelineError, match=r"data/runs/mine/seal.json is not a seal"):
        seal.restore("mine")
