"""What every stage's command has in common: errors on one line."""

import sys
from pathlib import Path

import pytest
import torch

from pipeline.settings.stages import NoSettings
from pipeline.stages.command_line import errors_on_one_line, main


def allocate(args: object, settings: object) -> None:
    torch.empty(10**14)


def test_out_of_memory_is_one_line_that_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["stage", "--settings", "{}", "--timing", str(tmp_path / "timing.json")])
    with pytest.raises(SystemExit) as ended:
        main(allocate, NoSettings, __doc__, {})
    assert str(ended.value) == "error: out of memory (tried to allocate 400000000000000 bytes): use a machine with more"
    with (
        pytest.raises(SystemExit, match=r"out of memory.*: lower rollout.batch_size"),
        errors_on_one_line("lower rollout.batch_size"),
    ):
        torch.empty(10**14)


def test_other_errors_of_pytorch_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shape"), errors_on_one_line():
        torch.ones(2, 3) @ torch.ones(2, 3)
