"""The model: bidirectional, never predicts [MASK], saved and opened whole or not at all."""

import json
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForMaskedLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pipeline.errors import PipelineError
from pipeline.models.llada import FAMILY, PLUGIN
from pipeline.models.network import RotaryEmbedding
from pipeline.models.transformer import config_class
from tests.conftest import ROOT, llada


def test_attention_is_bidirectional_and_mask_is_banned():
    model = llada(9, 8)
    tokens = torch.randint(8, (2, 6), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 8
    before, after = model(input_ids=tokens).logits, model(input_ids=changed).logits
    assert (before[:, 0, :8] - after[:, 0, :8]).abs().max() > 1e-3
    assert (before[..., 8] == -torch.inf).all()
    select = torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    torch.testing.assert_close(model(input_ids=tokens, select=select).logits, before[select])


def test_angles_are_those_of_a_llama():
    """To the bit: its matrix product has one term for each angle."""
    config = config_class(FAMILY)(hidden_size=256, num_attention_heads=2)
    positions = torch.arange(4096)[None]
    wanted = LlamaRotaryEmbedding(config)(torch.empty(0), positions)
    for found, angle in zip(RotaryEmbedding(config)(torch.empty(0), positions), wanted, strict=True):
        assert torch.equal(found, angle)


def test_save_and_load(tmp_path):
    model = llada(9, 8)
    PLUGIN.save(model, tmp_path)
    for again in (PLUGIN.load(tmp_path), AutoModelForMaskedLM.from_pretrained(tmp_path)):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_other_architectures_and_missing_tensors_are_refused(tmp_path):
    PLUGIN.save(llada(9, 8), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(PipelineError, match="holds the architecture 'gpt2', not 'llada'"):
        PLUGIN.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(PipelineError, match="missing keys"):
        PLUGIN.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(PipelineError, match="is not a model directory"):
        PLUGIN.load(tmp_path)


def test_a_policy_opens_as_the_documentation_says(finished):
    """The lines of docs/llada.md, run on a finished run's last policy."""
    lines = (ROOT / "docs" / "llada.md").read_text().split("```python\n")[1].split("```")[0]
    path = finished.run_directory / "round_002" / "policy"
    script = re.sub(r'path = ".*"', f'path = "{path}"', lines)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert re.fullmatch(r"[1-4>0.]{16}\n", done.stdout), done.stderr
