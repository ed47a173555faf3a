"""With a full disk or an output that cannot be written, the command of a stage stops with one line."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import said


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more bytes than these to a file fails, as it does on a full disk; Python ignores the signal.

    pytest must not catch what is printed in files of its own: hence `capsys` below.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("name", "file_size", "file"),
    [
        ("prepare", 100, "items/base.parquet"),
        ("rollout", 100, "00.parquet"),
        ("adjoint", 100, "targets.parquet"),
        ("train", 100, "policy"),
        ("train", 50_000, "optimizer.safetensors"),
        ("decode", 100, "00.parquet"),
        ("evaluate", 100, "evaluation.json"),
        ("report", 100, "report.html"),
    ],
)
def test_full_disk(stage, capsys, name, file_size, file):
    with files_of_at_most(file_size):
        message = said(lambda: stage(stage.command(name)))
    assert message.startswith(f"cannot write {stage.out}/{file}: ")
    assert not (stage.out / file).exists() and not list(stage.run.parent.rglob(".*.tmp"))


@pytest.mark.parametrize("name", ["prepare", "train", "report"])
def test_unwritable_output(line, stage, name):
    stage.out.touch()
    assert "Not a directory" in line(name)
