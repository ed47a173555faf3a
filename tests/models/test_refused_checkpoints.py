"""Checkpoints that are refused: of another architecture, damaged, or with files that are never opened."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.models import mlp
from pipeline.models.llada import PLUGIN
from tests.conftest import llada as tiny
from tests.models import hub


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llada2_moe"}, "holds the architecture 'llada2_moe', not 'llada'"),
        ({"block_type": "sequential"}, "block_type: 'sequential', this model supports only 'llama'"),
        ({"alibi": True}, "config.json says alibi: True"),
        ({"mask_token_id": None}, "config.json names no mask_token_id"),
        ({"n_layers": 3}, "missing keys: model.layers.2."),
        ({"n_layers": 1}, "unexpected keys: model.transformer.blocks.1.|unexpected keys: model.layers.1."),
        ({"mlp_hidden_size": 64}, "mismatched keys: "),
        ({"n_kv_heads": 2}, "mismatched keys: model.transformer.blocks.0.k_proj.weight .32, 32., not .16, 32."),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "config.json says rope_scaling: {'type': 'yarn', 'fac"),
        ({"yarn": True}, "config.json says yarn: True"),
        ({"quantization_config": {"bits": 4}}, "config.json says quantization_config"),
        ({"d_model": None}, "config.json names no 'd_model'"),
        ({"d_model": 0}, "config.json: d_model: input should be greater than or equal to 1 .got 0."),
        ({"d_model": "32"}, "config.json: d_model: input should be a valid integer .got '32'."),
        ({"d_model": [32] * 10**5}, "config.json: d_model: input should be a valid integer"),
        ({"mlp_hidden_size": None, "mlp_ratio": "x"}, "can't multiply sequence|invalid literal for int"),
        ({"mlp_hidden_size": -3}, "config.json: mlp_hidden_size: input should be greater than"),
        ({"n_layers": 10**12}, "config.json: n_layers: input should be less than or equal to 1000"),
        ({"n_heads": 5}, "32 values do not split into 5 heads of pairs"),
        ({"n_heads": 10**6}, "32 values do not split into 1000000 heads of pairs"),
        ({"n_kv_heads": 3}, "4 heads, 3 for keys and values: the first must be a multiple of the second"),
        ({"embedding_size": 10**6}, "mismatched keys: model.transformer.wte.weight .40, 32., not .1000000, 32."),
        ({"mask_token_id": 40}, "mask_token_id 40 is not in a vocabulary of 40"),
        ({"mask_token_id": -1}, "config.json: mask_token_id: input should be greater than or equal to 0"),
        ({"rms_norm_eps": float("nan")}, "config.json: rms_norm_eps: input should be "),
        ({"rms_norm_eps": 0}, "config.json: rms_norm_eps: input should be greater than 0"),
        ({"rms_norm_eps": "1e-5"}, "config.json: rms_norm_eps: input should be a valid number"),
        ({"rope_theta": 0}, "config.json says rope_theta: 0.0, not a positive number"),
        ({"rope_theta": float("inf")}, "config.json says rope_theta: inf, not a positive number"),
        ({"rope_theta": "high"}, "could not convert string to float: 'high'"),
        ({"max_sequence_length": 0}, "config.json: max_sequence_length: input should be greater than"),
        ({"torch_dtype": "int8"}, "config.json says dtype: 'int8', not one of float32, bfloat16"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    hub.write(tmp_path, {**hub.CONFIG, **changes}, hub.random_tensors(hub.CONFIG))
    with pytest.raises(PipelineError, match=message):
        PLUGIN.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
            "rope_parameters: .*, this model supports only the",
        ),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "config.json says rope_scaling"),
        ({"hidden_act": "gelu"}, "config.json says hidden_act: 'gelu', which this model does not support"),
        ({"layer_types": 3, "id2label": [3]}, "cannot load the weights in"),
        ({"attention_bias": True}, "config.json says attention_bias: True, which this model does not support"),
        ({"hidden_size": 0}, "config.json: hidden_size: input should be greater than"),
        ({"num_attention_heads": None}, "do not split into 32 heads|mismatched keys"),
        ({"mask_token_id": None}, "config.json: mask_token_id: field required"),
    ],
)
def test_the_other_layout_is_checked_too(tmp_path, changes, message):
    PLUGIN.save(tiny(9, 8), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(PipelineError, match=message):
        PLUGIN.load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_are_floats(tmp_path, dtype):
    tensors = hub.random_tensors(hub.CONFIG)
    name = "model.transformer.blocks.1.up_proj.weight"
    tensors[name] = tensors[name].to(dtype)
    hub.write(tmp_path, hub.CONFIG, tensors)
    with pytest.raises(PipelineError, match=f"the tensor '{name}' has the type .*, not F64, F32, F16, BF16"):
        PLUGIN.load(tmp_path)


def test_weights_of_small_models_are_floats_and_their_sizes_possible(tmp_path):
    mlp.PLUGIN.save(mlp.Mlp(5, 4, 2, 8, 1), tmp_path)
    assert mlp.PLUGIN.load(tmp_path)
    config, tensors = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    for size in (10**12, -1, "8", True, None, 1.0):
        (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": size}))
        with pytest.raises(PipelineError, match=f"config.json says hidden_size: {size!r}, but the weights have"):
            mlp.PLUGIN.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: value.to(torch.int32) for name, value in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(PipelineError, match="has the type I32, not F64"):
        mlp.PLUGIN.load(tmp_path)


def test_only_safetensors_are_opened(tmp_path):
    hub.write(tmp_path, hub.CONFIG, hub.random_tensors(hub.CONFIG), shards=1)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "model-00001-of-00001.safetensors").rename(tmp_path / "model.safetensors")
    torch.save({}, tmp_path / "pytorch_model.bin")
    PLUGIN.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"it holds no model.safetensors, and pytorch_model.bin is never opened"):
        PLUGIN.load(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", 3, "x.bin"])
def test_the_index_names_files_beside_it(tmp_path, name):
    hub.write(tmp_path / "hub", hub.CONFIG, hub.random_tensors(hub.CONFIG))
    path = tmp_path / "hub" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.transformer.wte.weight"] = name
    path.write_text(json.dumps(index))
    shutil.copy(tmp_path / "hub" / "model-00001-of-00002.safetensors", tmp_path / "secret.safetensors")
    with pytest.raises(PipelineError, match="which is not a safetensors file beside it"):
        PLUGIN.load(tmp_path / "hub")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "[" * 100_000, "cannot read its config.json .it is nested too deeply"),
        ("config.json", '{"model_type"', "cannot read its config.json"),
        ("model.safetensors.index.json", "[" * 100_000, "index.json': it is nested too deeply"),
        ("model.safetensors.index.json", "{}", "index.json' has no 'weight_map'"),
    ],
)
def test_json_that_is_none(tmp_path, file, text, message):
    hub.write(tmp_path, hub.CONFIG, hub.random_tensors(hub.CONFIG))
    (tmp_path / file).write_text(text)
    with pytest.raises(PipelineError, match=message):
        PLUGIN.load(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "extra", "truncated", "lost"])
def test_damaged_shards_are_refused(tmp_path, damage):
    tensors = hub.random_tensors(hub.CONFIG)
    if damage == "missing":
        del tensors["model.transformer.blocks.0.attn_norm.weight"]
    if damage == "extra":
        tensors["model.transformer.blocks.0.attn_norm.bias"] = torch.zeros(32)
    hub.write(tmp_path, hub.CONFIG, tensors)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    if damage == "lost":
        shard.unlink()
    message = {"missing": "missing keys", "extra": "unexpected keys"}.get(damage, "cannot load the weights in ")
    with pytest.raises(PipelineError, match=message):
        PLUGIN.load(tmp_path)
