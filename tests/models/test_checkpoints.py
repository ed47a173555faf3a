"""Checkpoints of the Hub: their logits, the way back, and that no code of theirs runs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from pipeline.errors import PipelineError
from pipeline.models import base, transformer
from pipeline.models import policy_directory as policies
from pipeline.models.llada import FAMILY, PLUGIN
from pipeline.models.transformer import config_class
from tests.conftest import llada as tiny
from tests.models import hub

VARIANTS = {
    "8B": {},
    "grouped": {"n_kv_heads": 2},
    "tied": {"weight_tying": True},
    "theta": {"rope_theta": 100.0, "rms_norm_eps": 1e-2},
    "padded": {"embedding_size": 48},
}
WIDE = {"embedding_size": 126464, "vocab_size": 126464, "mask_token_id": 126336, "d_model": 16, "n_layers": 1}


def padded(side: str, length: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(37, (3, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    if side != "none":
        mask[1, :5], mask[2, :2] = 0, 0
        mask = mask if side == "left" else mask.flip(1)
    return tokens, mask


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_published_model(tmp_path, variant, side):
    config = {**hub.CONFIG, **VARIANTS[variant]}
    tensors = hub.random_tensors(config)
    model = PLUGIN.load(hub.write(tmp_path, config, tensors))
    tokens, mask = padded(side)
    with torch.no_grad():
        found = model(input_ids=tokens, attention_mask=mask).logits
    wanted = hub.logits(config, tensors, tokens, mask)
    torch.testing.assert_close(found[mask == 1], wanted[mask == 1], atol=1e-4, rtol=0)


def test_bfloat16_differs_by_the_order_of_sums_only(tmp_path):
    tensors = hub.random_tensors(hub.CONFIG, torch.bfloat16)
    model = PLUGIN.load(hub.write(tmp_path, hub.CONFIG, tensors))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    tokens, mask = padded("none")
    with torch.no_grad():
        found = model(input_ids=tokens).logits.log_softmax(dim=-1)
    wanted = hub.logits(hub.CONFIG, tensors, tokens, mask).log_softmax(dim=-1)
    assert found.dtype == torch.float32
    kl = torch.where(wanted.isinf(), 0.0, wanted.exp() * (wanted - found)).sum(dim=-1)
    assert kl.mean() < 1e-4


@pytest.mark.parametrize("variant", ["grouped", "tied"])
def test_saved_as_it_came(tmp_path, variant):
    """Names, values and what config.json says; it opens again here and in transformers, and no key points to code."""
    config = {**hub.CONFIG, **VARIANTS[variant], "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig"}}
    tensors = hub.random_tensors(config, torch.bfloat16)
    model = PLUGIN.load(hub.write(tmp_path / "hub", config, tensors))
    PLUGIN.save(model, tmp_path / "saved")
    again = load_file(tmp_path / "saved" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(again[name].dtype == value.dtype and torch.equal(again[name], value) for name, value in tensors.items())
    wanted = {key: value for key, value in config.items() if key != "auto_map"} | {"torch_dtype": "bfloat16"}
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == wanted
    tokens, _ = padded("none")
    for same in (PLUGIN.load(tmp_path / "saved"), AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")):
        assert torch.equal(same(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    trap = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass LLaDAModelLM: pass\n"
    code = {"AutoConfig": "modeling_llada.LLaDAModelLM", "AutoModelForMaskedLM": "modeling_llada.LLaDAModelLM"}
    config = {**hub.CONFIG, "auto_map": code}
    hub.write(tmp_path / "hub", config, hub.random_tensors(config))
    for name in ("modeling_llada.py", "configuration_llada.py"):
        (tmp_path / "hub" / name).write_text(trap)
    PLUGIN.load(tmp_path / "hub")
    AutoModelForMaskedLM.from_pretrained(tmp_path / "hub", trust_remote_code=False)
    assert not (tmp_path / "ran").exists()


def test_the_8b_model_has_the_published_size():
    sizes = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288}
    config = {**hub.CONFIG, **sizes, "embedding_size": 126464, "vocab_size": 126464, "mask_token_id": 126336}
    with torch.device("meta"):
        model = transformer.model_class(FAMILY)(config_class(FAMILY).from_dict(config))
    found = sorted(tuple(value.shape) for value in model.parameters())
    assert found == sorted(hub.shapes(config).values()) and len(found) == 291
    assert sum(value.numel() for value in model.parameters()) == 8_015_581_184


def test_no_token_is_padding(tmp_path):
    """Its embedding would get no gradient."""
    PLUGIN.save(tiny(9, 8), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pad_token_id": 3}))
    assert PLUGIN.load(tmp_path).model.embed_tokens.padding_idx is None


def test_the_norm_of_the_family_where_none_is_named(tmp_path):
    config = {key: value for key, value in hub.CONFIG.items() if key != "rms_norm_eps"}
    model = PLUGIN.load(hub.write(tmp_path, config, hub.random_tensors(hub.CONFIG)))
    assert {layer.input_layernorm.variance_epsilon for layer in model.model.layers} == {1e-5}


def test_a_vocabulary_of_126464(tmp_path, monkeypatch):
    """The head runs on the selected rows alone, and for given tokens in pieces, with the same values and gradients."""
    config = {**hub.CONFIG, **WIDE, "mlp_hidden_size": 16}
    model = PLUGIN.load(hub.write(tmp_path, config, hub.random_tensors(config, torch.bfloat16)))
    rows: list[int] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.numel() // 126464))
    monkeypatch.setattr(base, "CHUNK", 4 * 126464)
    tokens = torch.randint(126000, (2, 64), generator=torch.Generator().manual_seed(0))
    select = torch.zeros_like(tokens, dtype=torch.bool)
    select[:, 7::13] = True
    wanted = torch.randint(126000, (int(select.sum()), 3), generator=torch.Generator().manual_seed(1))
    whole = model(input_ids=tokens, select=select).logits.log_softmax(dim=-1).gather(1, wanted)
    assert rows == [10]
    pieces = model(input_ids=tokens, select=select, tokens=wanted).log_prob
    assert rows[1:] == [4, 4, 2]
    torch.testing.assert_close(pieces, whole)
    parameters = [model.lm_head.weight, model.model.layers[0].mlp.down_proj.weight]
    one, other = (torch.autograd.grad(value.sum(), parameters) for value in (pieces, whole))
    torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


def test_names_of_the_hub_are_fetched_without_code(tmp_path, monkeypatch):
    """The weights only if the model implements what config.json describes."""
    asked: list[list[str]] = []

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, revision) == ("GSAI-ML/LLaDA-8B-Base", "v1")
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(policies, "snapshot_download", snapshot)
    small = ["*.json", "*.jinja", "merges.txt"]
    hub.write(tmp_path, hub.CONFIG | {"alibi": True}, hub.random_tensors(hub.CONFIG))
    with pytest.raises(PipelineError, match=r"config\.json says alibi: True"):
        policies.find_checkpoint("GSAI-ML/LLaDA-8B-Base", PLUGIN, "v1")
    assert asked == [small]
    hub.write(tmp_path, hub.CONFIG, hub.random_tensors(hub.CONFIG))
    assert policies.find_checkpoint("GSAI-ML/LLaDA-8B-Base", PLUGIN, "v1") == tmp_path
    assert asked[1:] == [small, [*small, "*.safetensors"]]
    assert policies.find_checkpoint(str(tmp_path), PLUGIN) == tmp_path
    monkeypatch.undo()
    with pytest.raises(PipelineError, match="'no/such/place' is neither a directory nor a model on the Hub"):
        policies.find_checkpoint("no/such/place", PLUGIN)


def test_tiny_models_are_saved_in_the_same_layout(tmp_path):
    model = tiny(9, 8)
    PLUGIN.save(model, tmp_path / "one")
    assert "model.transformer.blocks.0.ff_out.weight" in load_file(tmp_path / "one" / "model.safetensors")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    tokens = torch.randint(8, (2, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(PLUGIN.load(tmp_path / "two")(input_ids=tokens).logits, model(input_ids=tokens).logits)
