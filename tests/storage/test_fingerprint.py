"""The fingerprint of weights: the same for the same values, however they are stored, and another for others."""

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.storage import fingerprint
from pipeline.storage.fingerprint import checkpoint_digest, fingerprint_of

TENSORS = {
    "b": torch.randn(300, 7, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "a": torch.arange(5.0),
    "step": torch.tensor(3.0),
}


def test_of_values_and_not_of_files(tmp_path):
    save_file(TENSORS, tmp_path / "one", {"format": "pt", "base": "x"})
    save_file(dict(reversed(TENSORS.items())), tmp_path / "same", {"base": "x", "other": "y"})
    assert fingerprint_of(tmp_path / "one") == fingerprint_of(tmp_path / "same")


@pytest.mark.parametrize("name", TENSORS)
def test_what_training_changes(name, tmp_path):
    """A step of an optimiser changes every value, if only by the last bit."""
    save_file(TENSORS, tmp_path / "one")
    last = torch.finfo(TENSORS[name].dtype).eps
    save_file({**TENSORS, name: TENSORS[name] * (1 + last) + last}, tmp_path / "other")
    save_file({**TENSORS, name: TENSORS[name].unsqueeze(-1)}, tmp_path / "shape")
    assert len({fingerprint_of(tmp_path / file) for file in ("one", "other", "shape")}) == 3


def test_of_several_files(tmp_path):
    for name in ("a", "b"):
        save_file({name: TENSORS[name]}, tmp_path / name)
    (tmp_path / "cut").write_bytes((tmp_path / "b").read_bytes()[:-10])
    assert fingerprint_of(tmp_path / "a") != fingerprint_of(tmp_path / "a", tmp_path / "b")
    with pytest.raises(PipelineError, match="is not a complete safetensors file"):
        fingerprint_of(tmp_path / "cut")


def test_of_the_files_of_a_checkpoint(tmp_path, monkeypatch):
    """Times and other files do not count; settings, names and what training changes do, also in a large file."""
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    for whole in (2**26, 8):
        monkeypatch.setattr(fingerprint, "WHOLE", whole)
        before = checkpoint_digest(tmp_path)
        (tmp_path / "config.json").touch()
        (tmp_path / "notes.md").write_text(str(whole))
        assert checkpoint_digest(tmp_path) == before
        save_file({name: value * 1.5 for name, value in TENSORS.items()}, tmp_path / "model.safetensors")
        changed = checkpoint_digest(tmp_path)
        save_file(TENSORS, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text("{ }")
        assert len({before, changed, checkpoint_digest(tmp_path)}) == 3
        (tmp_path / "config.json").write_text("{}")
        assert checkpoint_digest(tmp_path) == before
