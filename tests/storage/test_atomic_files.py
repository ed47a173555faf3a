"""Files are written completely or not at all, and what a killed writer leaves is removed."""

import os
import signal

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.storage.atomic_files import discard, replacing, write_json


def killed_while_writing(path):
    """Kill a process that has written half of the file, and a library's temporary file beside it."""
    child = os.fork()
    if child == 0:
        with replacing(path) as temporary:
            temporary.write_text("half")
            (temporary.parent / ".tmpXYZ").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_writing_again_removes_what_a_killed_writer_left(tmp_path):
    killed_while_writing(tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == [".a.json.tmp"]
    write_json(tmp_path / "a.json", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_discard_removes_what_a_killed_writer_left(tmp_path):
    killed_while_writing(tmp_path / "a.checkpoint")
    discard(tmp_path / "a.checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_replaces_a_directory(tmp_path):
    for name in ("old", "new"):
        with replacing(tmp_path / "policy") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["policy", "policy/new"]


def test_failure_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(PipelineError, match=r"cannot write .*a.json: .*JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["1\n"]


def test_unwritable_paths_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PipelineError, match=r"cannot write .*/file/a: Not a directory"):
        write_json(tmp_path / "file" / "a", 1)
    with (
        pytest.raises(PipelineError, match=r"cannot write .*/a: .*Not a directory"),
        replacing(tmp_path / "a") as temporary,
    ):
        temporary.write_text("")
        save_file({"x": torch.zeros(1)}, temporary / "x")
