"""With a full disk or an output that cannot be written, the command of a stage stops with one line."""

import pytest


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
def test_full_disk(stage, name, file_size, file):
    stage.fails(stage.command(name), f"cannot write OUT/{file}: ", file_size=file_size)
    assert not (stage.out / file).exists()


@pytest.mark.parametrize("name", ["prepare", "train", "report"])
def test_unwritable_output(stage, name):
    stage.out.touch()
    stage.fails(stage.command(name), "Not a directory")
