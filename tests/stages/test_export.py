"""Exported policies: opened by the published model, adapters under its names, a card whose numbers are the run's."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.models import FAMILIES
from pipeline.models.llada import PLUGIN
from pipeline.models.policy_directory import described, load_policy, make_trainable, save_policy
from pipeline.plugins import load_model
from pipeline.settings.sections import Adapter, Train
from pipeline.stages.export import run
from pipeline.storage.atomic_files import sha256_of
from pipeline.text.tokenizer import character_tokenizer
from tests.conftest import of_family
from tests.models import families, hub

CODE = {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"}
TOKENS = torch.randint(37, (3, 12), generator=torch.Generator().manual_seed(1))
KNOWN = 38
"""Tokens of the tokenizer; then [MASK], and a row of the vocabulary that is no token."""
TOKENIZER = character_tokenizer("".join(map(chr, range(48, 48 + KNOWN))))


def export(policy: Path, out: Path, **options: object) -> Path:
    defaults = {"adapters": False, "base": None, "model": None, "license": None, "push": None, "public": False}
    run(Namespace(policy=policy, out=out, **{**defaults, **options}))
    return out


def published_logits(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return hub.logits(hub.CONFIG, tensors, TOKENS, torch.ones_like(TOKENS))[..., :KNOWN]


@pytest.fixture
def base(tmp_path) -> Path:
    """A checkpoint in the Hub's layout, imported as rule `base` does from the Hub's cache."""
    source = tmp_path / "snapshots" / "0123abc"
    hub.write(source, {**hub.CONFIG, "auto_map": CODE}, hub.random_tensors(hub.CONFIG))
    (source / "tokenizer.json").write_text(TOKENIZER.to_str())
    model, tokenizer, _ = load_policy(source, PLUGIN)
    policy = tmp_path / "run" / "round_000" / "policy"
    save_policy(policy, model, tokenizer, PLUGIN, source, described("org/base", source))
    return policy


@pytest.fixture
def trained(base) -> Path:
    """Adapters whose B is not 0, as a round saves them."""
    model, tokenizer, _ = load_policy(base, PLUGIN, merged=False)
    policy = base.parent.parent / "round_001" / "policy"
    make_trainable(model, PLUGIN, Train(adapter=Adapter(rank=2, alpha=3)), 0, base, policy)
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if ".lora_B." in name:
            value.data.normal_(std=0.1)
    save_policy(policy, model, tokenizer, PLUGIN, base)
    return policy


def test_merged_weights_are_those_of_the_published_model(base, trained, tmp_path):
    out = export(trained, tmp_path / "out", license="mit")
    config = json.loads((out / "config.json").read_text())
    assert config == {
        **hub.CONFIG,
        "auto_map": {key: f"org/base--{place}" for key, place in CODE.items()},
        "torch_dtype": "float32",
    }
    tensors, before = load_file(out / "model.safetensors"), load_file(base / "model.safetensors")
    assert {name: value.shape for name, value in tensors.items()} == hub.shapes(hub.CONFIG)
    with torch.no_grad():
        wanted = load_policy(trained, PLUGIN)[0](input_ids=TOKENS).logits[..., :KNOWN]
    found = published_logits(tensors)
    assert (found - wanted).abs().max() < 1e-5 < (found - published_logits(before)).abs().max()
    assert json.loads((out / "generation_config.json").read_text()) == {
        key: config[key] for key in ("eos_token_id", "pad_token_id", "mask_token_id")
    }
    head = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert (head["base_model"], head["base_model_relation"], head["license"]) == ("org/base", "finetune", "mit")
    assert "`org/base`, revision `0123abc`" in (out / "README.md").read_text()
    assert not list(tmp_path.rglob("*.py")) and not (out / "base_model.json").exists()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_made_here_has_the_configuration_that_published_code_reads(name, tmp_path):
    """In the keys of transformers 4. Both the published model and this project get the policy's logits from it."""
    plugin = load_model(name)
    model = of_family(name, hub.CONFIG["vocab_size"], hub.CONFIG["mask_token_id"], initializer_range=0.2)
    save_policy(tmp_path / "policy", model, TOKENIZER, plugin)
    out = export(tmp_path / "policy", tmp_path / "out", model=name)
    config, tensors = json.loads((out / "config.json").read_text()), load_file(out / "model.safetensors")
    ones = torch.ones_like(TOKENS)
    with torch.no_grad():
        wanted = model(input_ids=TOKENS).logits[..., :KNOWN]
        opened = load_policy(out, plugin)[0](input_ids=TOKENS).logits[..., :KNOWN]
        if name == "llada":
            found = hub.logits(config, tensors, TOKENS, ones)
        else:
            kind = {"dream": families.DREAM, "sdar": families.SDAR}[name]
            found = torch.stack([families.logits(kind, config, tensors, row) for row in TOKENS])
    assert torch.equal(opened, wanted) and (found[..., :KNOWN] - wanted).abs().max() < 1e-5
    assert (config["torch_dtype"], config["pad_token_id"]) == ("float32", None)
    assert not {"dtype", "rope_parameters"} & config.keys()
    if name == "llada":
        assert hub.CONFIG.keys() - {"mlp_ratio", "precision"} <= config.keys()
        assert config["architectures"] == hub.CONFIG["architectures"]


def test_adapters_have_the_names_of_the_published_model(base, trained, tmp_path):
    """W + (α/r) B A by these names, on the base's tensors, is the merged export."""
    out = export(trained, tmp_path / "out", adapters=True)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "0123abc")
    adapters, tensors = load_file(out / "adapter_model.safetensors"), load_file(base / "model.safetensors")
    assert len(adapters) == 2 * len(config["target_modules"]) == 2 * 7 * hub.CONFIG["n_layers"]
    for layer in config["target_modules"]:
        a, b = (adapters[f"base_model.model.{layer}.lora_{matrix}.weight"] for matrix in "AB")
        tensors[f"{layer}.weight"] += config["lora_alpha"] / config["r"] * b @ a
    merged = load_file(export(trained, tmp_path / "merged") / "model.safetensors")
    assert (published_logits(tensors) - published_logits(merged)).abs().max() < 1e-5
    assert 'library_name: "peft"' in (out / "README.md").read_text()


def test_a_run_of_another_run_keeps_its_base(base):
    """A policy as `base.path`: the code is still that of the first checkpoint."""
    assert described("data/runs/other/round_000/policy", base) == {
        "name": "org/base",
        "revision": "0123abc",
        "auto_map": CODE,
    }


def test_a_damaged_note_of_the_base_is_named(base):
    """By rule `base`, before it trains, and by the export."""
    (base / "base_model.json").write_text("[")
    with pytest.raises(PipelineError, match=r"base_model.json is not a JSON object"):
        described("mine", base)


def test_the_card_of_a_run(finished, tmp_path):
    """Every row of results, KL, α and the digests are those in the run's files; other weights are refused."""
    shutil.copytree(finished.run_directory, tmp_path / "small")
    for number in (1, 2):
        folder = tmp_path / "small" / f"round_00{number}"
        text = (export(folder / "policy", tmp_path / f"out{number}") / "README.md").read_text()
        evaluation = json.loads((folder / "evaluation.json").read_text())
        for row in evaluation["rows"]:
            accuracy, error = (row["metrics"][name] for name in ("grid_accuracy", "grid_accuracy_se"))
            line = f"| {number} | {row['split']} | {row['sampler']} |"
            assert any(
                one.startswith(line) and one.endswith(f"{accuracy:.4g} ± {error:.2g} |") for one in text.splitlines()
            )
        drawn = json.loads((tmp_path / "small" / "round_002" / "adjoint.json").read_text())
        whose = "" if number == 1 else " of the policy of the round before"
        kl = f"{drawn['kl_to_base']:.4g} ± {drawn['kl_to_base_se']:.2g}, from the rollouts of round_002"
        assert f"KL to the base{whose}, nats | {kl}" in text
        assert "| α, weight of the KL to the base | 0.01 |" in text and "| task | sudoku |" in text
        assert f"small/round_00{number}/evaluation.json | {sha256_of(folder / 'evaluation.json')[:16]}" in text
        assert "a base that the run trained itself" in text and "base_model" not in text
    tensors = load_file(folder / "policy" / "model.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, folder / "policy" / "model.safetensors")
    with pytest.raises(PipelineError, match=r"evaluation.json is of other weights than .*: run the workflow again"):
        export(folder / "policy", tmp_path / "out3")
    assert not (tmp_path / "out3").exists()


def test_refusals(base, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PipelineError, match=r"--push org/name: .*out is complete and can be uploaded later") as stop:
        export(trained, tmp_path / "out", push="org/name")
    assert "\n" not in str(stop.value) and (tmp_path / "out" / "README.md").is_file()
    with pytest.raises(PipelineError, match="out exists: name a new directory, or remove it"):
        export(trained, tmp_path / "out")
    with pytest.raises(PipelineError, match="nowhere is not a policy directory"):
        export(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(PipelineError, match="holds all weights, no adapters"):
        export(base, tmp_path / "new", adapters=True)
    with pytest.raises(PipelineError, match=r"the base's code lies in a directory, .*: name its repository by --base"):
        export(trained, tmp_path / "new", push="org/name", base=str(base))
    (trained / "base_model.json").unlink()
    with pytest.raises(PipelineError, match="the run trained its base itself: export without, or name it by --base"):
        export(trained, tmp_path / "new", adapters=True)
    assert not (tmp_path / "new").exists()
