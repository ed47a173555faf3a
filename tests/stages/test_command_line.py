"""What every stage's command has in common: errors on one line."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pipeline.settings.stages import NoSettings, PrepareSettings
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


def test_settings_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """With the same origin as the text itself, so that Snakemake takes the outputs for its own."""
    (tmp_path / "settings.json").write_text('{"seed": 3, "task": {"name": "sudoku"}}\n')
    found = []

    def run(argument: str) -> str:
        monkeypatch.setattr(sys, "argv", ["stage", "--settings", argument, "--timing", str(tmp_path / "timing.json")])
        main(lambda _, settings: found.append(settings.seed), PrepareSettings, __doc__, {})
        return json.loads((tmp_path / "timing.json").read_text())["origin"]

    text = (tmp_path / "settings.json").read_text().strip()
    assert run(f"@{tmp_path}/settings.json") == run(text)
    assert found == [3, 3]
    with pytest.raises(SystemExit, match=r"error: .*none\.json: No such file"):
        run(f"@{tmp_path}/none.json")
    monkeypatch.setattr(sys, "argv", ["stage", "--help"])
    with pytest.raises(SystemExit):
        main(allocate, PrepareSettings, __doc__, {})
    assert "JSON text, or @FILE" in " ".join(capsys.readouterr().out.split())


def test_other_errors_of_pytorch_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shape"), errors_on_one_line():
        torch.ones(2, 3) @ torch.ones(2, 3)
