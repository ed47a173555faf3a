"""What a dry run reads of a base model's files, and the settings that do not fit them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.llada import FAMILY
from pipeline.plugins import load_model
from pipeline.settings.params_file import parse_params
from pipeline.settings.sections import ModelSection
from pipeline.workflow import base_files
from tests.conftest import ROOT
from tests.models import encoders, families
from tests.workflow.conftest import BLOCKS, chat, problems


@pytest.fixture
def copied(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_the_linear_layers_are_those_of_the_module():
    section = ModelSection(num_hidden_layers=2)
    module = load_model("llada").create(section, 9, 8, 16)
    own = {name for name, layer in module.model.named_modules() if isinstance(layer, nn.Linear)}
    run = parse_params({"default_run": "small", "runs": {"small": {"model": {"num_hidden_layers": 2}}}}).runs["small"]
    assert {f"model.{name}" for name in own} == set(FAMILY.linear_layers(base_files.embedded_sizes(run, FAMILY)))


def test_a_checkpoint_of_another_family(tmp_path, checkpoint):
    path = families.write_chat(tmp_path, families.SDAR)
    assert problems(chat(path, model={"name": "sdar"}, **BLOCKS)) == []
    (found,) = problems(chat(path, model={"name": "sdar", "block_length": 16}, **BLOCKS))[:1]
    assert found == "rollout.block_length must be 16, the blocks that the model sees, not 4"
    with pytest.raises(PipelineError, match=r"holds the architecture 'sdar', not 'Dream': set model\.name to sdar"):
        problems(chat(path, model={"name": "dream"}))
    with pytest.raises(PipelineError, match=r"model\.block_length 4: in llada every position sees every other"):
        problems(chat(checkpoint, model={"block_length": 4}))


def test_a_checkpoint_is_checked_by_its_headers(checkpoint, monkeypatch):
    """All of it, without reading a tensor or the Hub."""
    monkeypatch.setattr(torch, "load", None)
    sections = {"train": {"adapter": {}}, "evaluate": {"lengths": [64, 512]}, "rollout": {"length": 1000}}
    assert problems(chat(checkpoint, **sections)) == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rollout": {"length": 1024}}, "rollout.length 1024: the model of base.path takes 1024 tokens, with those of"),
        ({"rollout": {"block_length": 2000}}, "rollout.block_length 2000: the model of base.path takes 1024"),
        ({"evaluate": {"lengths": [64, 4096]}}, "evaluate.lengths 4096: the model of base.path takes 1024"),
        ({"evaluate": {"block_length": 1024}}, "evaluate.block_length 1024: the model of base.path takes 1024"),
        ({"train": {"adapter": {"targets": ["layers.1.mlp.up_proj"]}}}, "no linear layer 'layers.1.mlp.up_proj'"),
    ],
)
def test_settings_against_a_checkpoint(checkpoint, sections, message):
    (found,) = problems(chat(checkpoint, **sections))
    assert message in found


def truncated(path: Path) -> None:
    file = path / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def without_template(path: Path) -> None:
    settings = json.loads((path / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "is not a model directory: cannot read its config.json"),
        (lambda path: (path / "tokenizer.json").unlink(), "base.path: .*tokenizer.json is missing"),
        (
            lambda path: (path / "tokenizer_config.json").unlink(),
            "has no chat template: tokenizer_config.json: No such",
        ),
        (without_template, "has no chat template: tokenizer_config.json: it has none"),
        (truncated, "cannot load the weights in '.*': model-00001-of-00002.safetensors is damaged"),
        (lambda path: (path / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors is miss"),
    ],
)
def test_files_of_a_checkpoint(copied, damage, message):
    damage(copied)
    with pytest.raises(PipelineError, match=message):
        problems(chat(copied))


def test_an_imported_base_stands_for_a_checkpoint_that_is_gone(checkpoint):
    assert problems(chat("gone/checkpoint"), imported=checkpoint) == []
    with pytest.raises(PipelineError, match="'no/such/place' is neither a directory nor a model on the Hub"):
        problems(chat("no/such/place"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (errors.RepositoryNotFoundError, "base.path: 'GSAI-ML/LLaDa' is neither a directory nor a model on the Hub"),
        (errors.EntryNotFoundError, "base.path: 'GSAI-ML/LLaDa' is neither .*: it has no config.json"),
        (ConnectionError, ""),
        (errors.OfflineModeIsEnabled, ""),
    ],
)
def test_names_on_the_hub(monkeypatch, answer, message):
    """A name that the Hub does not know is refused; without a network nothing is said."""

    def asked(url: str, timeout: float) -> None:
        assert url.endswith("/GSAI-ML/LLaDa/resolve/main/config.json") and timeout <= 5
        raise answer.__new__(answer)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", asked)
    if message:
        with pytest.raises(PipelineError, match=message):
            problems(chat("GSAI-ML/LLaDa"))
    else:
        assert problems(chat("GSAI-ML/LLaDa")) == []


def test_a_misspelt_path_where_the_hub_cannot_be_reached(monkeypatch, tmp_path, checkpoint):
    """It looks like a name on the Hub; that of a model whose owner's name is no directory here is left alone."""

    def asked(url: str, timeout: float) -> None:
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    with pytest.raises(PipelineError, match=r"'checkpoints/mien' is no directory, and .*'checkpoints/mine'\?"):
        problems(chat("checkpoints/mien"))
    assert problems(chat("GSAI-ML/LLaDA-1.5")) == []


def test_revisions(monkeypatch, checkpoint):
    """Of a name on the Hub; a directory has none."""

    def asked(url: str, timeout: float) -> None:
        assert url.endswith("/GSAI-ML/LLaDA-1.5/resolve/v2/config.json")
        raise errors.RevisionNotFoundError.__new__(errors.RevisionNotFoundError)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", asked)
    with pytest.raises(PipelineError, match=r"base.revision: 'GSAI-ML/LLaDA-1.5' has no revision 'v2' on the Hub"):
        problems(chat("", base={"path": "GSAI-ML/LLaDA-1.5", "revision": "v2"}))
    with pytest.raises(PipelineError, match=r"base.revision: .* is a directory, which has none"):
        problems(chat("", base={"path": str(checkpoint), "revision": "v2"}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, ""),
        ({"base": {"data": "none.txt"}}, "base.data: none.txt is missing; 'task' is the task's own split"),
        (
            {"train": {"adapter": {}}},
            "train.adapter.targets: the model has no linear layer 'q_proj': known: dense, key, query, value",
        ),
        ({"train": {"adapter": {"targets": ["query", "output.dense"]}}}, ""),
        (
            {"base": {"data": "task", "adapter": {"targets": ["lm_head.dense"]}}},
            "base.adapter.targets: the model has no linear layer 'lm_head.dense': did you mean 'dense'?",
        ),
        ({"base": {"data": "task", "batch_size": 3}}, "base.batch_size 3 is not a multiple of"),
    ],
)
def test_a_masked_language_model(tmp_path, monkeypatch, sections, message):
    monkeypatch.syspath_prepend(ROOT)
    encoders.write(tmp_path / "base", "roberta")
    base = {"path": str(tmp_path / "base"), **sections.get("base", {})}
    run = {"task": {"name": "examples.words"}, "model": {"name": "masked_lm"}, **sections, "base": base}
    found = problems(run, processes=2)
    assert message in found[0] if message else not found
    (tmp_path / "base" / "config.json").write_text("{}")
    with pytest.raises(PipelineError, match="holds the architecture 'None', not one of bert"):
        problems(run)
