"""Families of the Hub: their logits against plain PyTorch, padded or not, the way back, and what is refused."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from pipeline.errors import PipelineError
from pipeline.models import FAMILIES
from pipeline.models.base import Model
from pipeline.models.family import family_of
from pipeline.models.files.family import read_sizes
from pipeline.models.flops import Shape
from pipeline.models.policy_directory import make_trainable
from pipeline.models.transformer import config_class, model_class
from pipeline.plugins import load_model
from pipeline.samplers.posterior import log_posterior
from pipeline.settings.sections import Adapter, ModelSection, Train
from pipeline.text.tokenizer import PADDING
from tests.conftest import ROOT
from tests.models import hub
from tests.models.families import DREAM, KINDS, Published, logits, random_tensors, shapes

VARIANTS = [
    ("dream", {}),
    ("dream", {"num_key_value_heads": 4, "rms_norm_eps": 1e-2}),
    ("dream", {"tie_word_embeddings": True}),
    ("sdar", {}),
    ("sdar", {"block_size": 1}),
    ("sdar", {"block_size": 5, "num_key_value_heads": 1}),
    ("sdar", {"block_size": 16, "tie_word_embeddings": True}),
]
LENGTH = 14


def opened(path, name: str, changes: dict, dtype: torch.dtype = torch.float32) -> tuple[Model, torch.nn.Module, dict]:
    """(plug-in, module, config) of a random checkpoint, whose tensors are under their names on the Hub."""
    config = {**KINDS[name].small, **changes}
    hub.write(path, config, random_tensors(KINDS[name], config, dtype))
    plugin = load_model(name)
    return plugin, plugin.load(path), config


def wanted_logits(kind: Published, config: dict, tokens: torch.Tensor) -> torch.Tensor:
    return logits(kind, config, random_tensors(kind, config), tokens)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_logits_are_those_of_the_published_model(tmp_path, name, changes, side):
    """Of each row alone, whatever padding stands beside it."""
    _, model, config = opened(tmp_path, name, changes)
    tokens = torch.randint(37, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    for row, padding in enumerate((0, 1, 2, 7)):
        mask[row, :padding] = 0
    mask = mask if side == "left" else mask.flip(1)
    select = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    with torch.no_grad():
        found = model(input_ids=tokens, attention_mask=mask).logits
        chosen = model(input_ids=tokens, attention_mask=mask, select=select).logits
        whole = model(input_ids=tokens).logits
    torch.testing.assert_close(chosen, found[select], atol=1e-5, rtol=0)
    for row, shown in enumerate(mask == 1):
        wanted = wanted_logits(KINDS[name], config, tokens[row, shown])
        torch.testing.assert_close(found[row, shown], wanted, atol=1e-4, rtol=0)
        wanted = wanted_logits(KINDS[name], config, tokens[row])
        torch.testing.assert_close(whole[row], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_padded_prompts(tmp_path, name, changes):
    """As the samplers pass them: the answer follows its prompt, whatever the longest prompt of the batch is."""
    _, model, config = opened(tmp_path, name, changes)
    prompt = torch.randint(37, (3, 6), generator=torch.Generator().manual_seed(1))
    prompt[0, :5], prompt[1, :3] = PADDING, PADDING
    answer = torch.full((3, 7), 38)
    answer[:, 2] = 5
    masked = answer == 38
    with torch.no_grad():
        found = log_posterior(model, prompt, answer, masked).split(masked.sum(dim=1).tolist())
    for row in range(3):
        shown = prompt[row][prompt[row] != PADDING]
        whole = wanted_logits(KINDS[name], config, torch.cat([shown, answer[row]])).log_softmax(dim=1)
        torch.testing.assert_close(found[row], whole[len(shown) :][masked[row]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_saved_as_it_came(tmp_path, name):
    """Names, values and config.json, which still points to the family's code; a second time too."""
    plugin, model, config = opened(tmp_path / "hub", name, {"torch_dtype": "bfloat16"}, torch.bfloat16)
    tensors = random_tensors(KINDS[name], config, torch.bfloat16)
    plugin.save(model, tmp_path / "one")
    plugin.save(plugin.load(tmp_path / "one"), tmp_path / "two")
    for copy in ("one", "two"):
        assert json.loads((tmp_path / copy / "config.json").read_text()) == config
        again = load_file(tmp_path / copy / "model.safetensors")
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[key], value) for key, value in tensors.items())
    files = [(tmp_path / copy / "model.safetensors").read_bytes() for copy in ("one", "two")]
    assert files[0] == files[1]
    same = AutoModelForMaskedLM.from_pretrained(tmp_path / "one", trust_remote_code=False)
    assert torch.equal(same(input_ids=torch.arange(9)[None]).logits, model(input_ids=torch.arange(9)[None]).logits)


@pytest.mark.parametrize("name", KINDS)
def test_one_that_was_made_here(tmp_path, name):
    plugin = load_model(name)
    torch.manual_seed(0)
    model = plugin.create(ModelSection(hidden_size=32, num_attention_heads=4, num_hidden_layers=2), 9, 8, 0).eval()
    plugin.save(model, tmp_path / "one")
    again = plugin.load(tmp_path / "one")
    plugin.save(again, tmp_path / "two")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    tokens = torch.randint(8, (2, 9))
    assert torch.equal(again(input_ids=tokens).logits, model(input_ids=tokens).logits)


@pytest.mark.parametrize(
    ("name", "sizes", "count"),
    [("dream", {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                "num_key_value_heads": 4}, 339),
     ("sdar", {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
               "num_key_value_heads": 8}, 399)],
)  # fmt: skip
def test_the_published_sizes(name, sizes, count):
    family, config = family_of(name), {**KINDS[name].config, **sizes}
    with torch.device("meta"):
        model = model_class(family)(config_class(family).from_dict(config))
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == shapes(KINDS[name], config) == family.shapes(family.published) and len(found) == count
    products = sum(value.numel() for key, value in model.named_parameters() if value.ndim == 2 and "layers" in key)
    assert Shape.of(config).products == Shape.of(family.published.model_dump()).products == products


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llada", {}, "holds the architecture 'Dream', not 'llada': set model.name to dream"),
        ("dream", {"model_type": "llada"}, "holds the architecture 'llada', not 'Dream': set model.name to llada"),
        (
            "dream",
            {"model_type": "llada2_moe"},
            "not 'Dream': its layers have sparse experts, which are not implemented",
        ),
        ("dream", {"num_experts": 64}, "config.json says num_experts: 64: sparse experts are not implemented here"),
        ("dream", {"use_sliding_window": True}, "config.json says use_sliding_window: True"),
        ("dream", {"rope_scaling": {"type": "yarn"}}, "config.json says rope_scaling: {'type': 'yarn'}"),
        ("dream", {"mask_token_id": None}, "config.json: mask_token_id: field required"),
        ("dream", {"num_key_value_heads": None}, "config.json names no 'num_key_value_heads'"),
        ("dream", {"num_hidden_layers": 3}, "missing keys: model.layers.2."),
        ("dream", {"hidden_act": "gelu"}, "config.json says hidden_act: 'gelu'"),
        ("sdar", {"attention_bias": True}, "config.json says attention_bias: True"),
        ("sdar", {"block_size": 0}, "config.json: block_size: input should be greater than or equal to 1 (got 0)"),
        ("sdar", {"head_dim": 16}, "mismatched keys: model.layers.0.self_attn.q_proj.weight [48, 32], not [64, 32]"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, name, changes, message):
    kind = KINDS.get(name, DREAM)
    hub.write(tmp_path, {**kind.small, **changes}, random_tensors(kind, kind.small))
    with pytest.raises(PipelineError) as error:
        load_model(name).load(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters(tmp_path, name, dtype):
    """On the base in its own type, merged and apart; biases and norms stay as they are."""
    kind = {"torch_dtype": str(dtype).removeprefix("torch.")}
    plugin, model, config = opened(tmp_path / "base", name, kind, dtype)
    make_trainable(model, plugin, Train(adapter=Adapter(rank=2)), 0, tmp_path / "base", tmp_path / "policy")
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * 7 * 2 and {value.dtype for value in trained.values()} == {dtype}
    for value in trained.values():
        value.data += 0.1
    (tmp_path / "policy").mkdir()
    plugin.save(model, tmp_path / "policy")
    apart, merged = plugin.load(tmp_path / "policy"), plugin.load(tmp_path / "policy")
    plugin.adapters.merge(merged)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        found, wanted = (each(input_ids=tokens).logits.log_softmax(dim=-1) for each in (merged, apart))
    torch.testing.assert_close(found, wanted, atol=1e-4 if dtype == torch.float32 else 1.0, rtol=0)
    tensors = random_tensors(KINDS[name], config, dtype)
    for key, value in merged.state_dict().items():
        assert value.dtype == dtype and torch.equal(value, tensors[key]) == ("proj.weight" not in key)


def test_families_are_read_without_pytorch():
    """As the Snakefile does; nothing is imported that takes a second."""
    modules = ", ".join(f"pipeline.models.{name}" for name in FAMILIES)
    code = f"import sys, {modules}; assert not {{'torch', 'transformers'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_llada_1_5_is_a_llada(tmp_path):
    """It differs from LLaDA-8B in its weights, and in entries of config.json that nothing is made of."""
    config = {**hub.CONFIG, "_name_or_path": "LLaDA-1.5", "torch_dtype": "bfloat16", "transformers_version": "4.49.0"}
    plugin = load_model("llada")
    model = plugin.load(hub.write(tmp_path, config, hub.random_tensors(config, torch.bfloat16)))
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert plugin.check(tmp_path).mask_token_id == hub.CONFIG["mask_token_id"]


def test_llada_with_experts_is_refused(tmp_path):
    """LLaDA-MoE has the model_type of LLaDA."""
    hub.write(tmp_path, {**hub.CONFIG, "num_experts": 64, "num_experts_per_tok": 8}, {})
    with pytest.raises(PipelineError, match="says num_experts: 64: sparse experts are not implemented here"):
        load_model("llada").check(tmp_path)


@pytest.mark.parametrize("kept", [{}, {"block_size": 16}])
def test_the_length_of_blocks_of_a_checkpoint(tmp_path, kept):
    """SDAR's checkpoints do not say it: `model.block_length` does, and then the policy says it."""
    plugin, model, config = opened(tmp_path / "hub", "sdar", kept)
    assert model.block_length == (16 if kept else 4)
    plugin.adopt(model, ModelSection(name="sdar", block_length=16))
    plugin.save(model, tmp_path / "policy")
    assert plugin.load(tmp_path / "policy").block_length == 16
    assert json.loads((tmp_path / "policy" / "config.json").read_text()) == {**config, "block_size": 16}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sdar", {"block_size": 16}, "model.block_length 8: config.json says block_size 16"),
        ("dream", {}, "model.block_length 8: in dream every position sees every other"),
    ],
)
def test_another_length_of_blocks_is_refused(tmp_path, name, changes, message):
    plugin, model, _ = opened(tmp_path, name, changes)
    with pytest.raises(PipelineError, match=message):
        plugin.adopt(model, ModelSection(name=name, block_length=8))
    with pytest.raises(PipelineError, match=message):
        read_sizes(tmp_path, family_of(name), 8)
