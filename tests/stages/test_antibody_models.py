"""Weights out of a wheel: the same function as before; only the wheel that is known; no code of its pickle runs."""

import argparse
import dataclasses
import hashlib
import io
import pickle
import sys
import zipfile

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from pipeline.errors import PipelineError
from pipeline.models.policy_directory import load_policy
from pipeline.plugins import load_model
from pipeline.stages import antibody_models
from pipeline.stages.antibody_models import SAPIENS, SOURCES, Source, convert
from tests.conftest import said

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def small(name: str) -> Source:
    return dataclasses.replace(SOURCES[name], config={**SOURCES[name].config, **SMALL})


def original(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = dict(small(name).config)
    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).eval()


def pickled(name: str, model: torch.nn.Module) -> object:
    """The content of the wheel's file: the names of fairseq, or with the heads that are left out."""
    state = {key: value for key, value in model.state_dict().items() if "position_ids" not in key}
    if name == "antiberty":
        return state | {"cls.species.weight": torch.zeros(6, 16), "bert.pooler.dense.bias": torch.zeros(16)}
    model.roberta.embeddings.token_type_embeddings.weight.data.zero_()
    content = {}
    for key, value in state.items():
        for theirs, ours in reversed(SAPIENS.items()):
            key = key.replace(ours, theirs)  # noqa: PLW2901
        content[key] = value
    content.pop("roberta.embeddings.token_type_embeddings.weight")
    content.pop("decoder.lm_head.decoder.bias", None)
    content["decoder.lm_head.weight"] = content.pop("decoder.lm_head.decoder.weight")
    return {"args": argparse.Namespace(arch="roberta_small"), "model": content}


def wheel_of(path, source: Source, content: bytes) -> Source:
    """A wheel with this pickle; returns the source with its digest."""
    with zipfile.ZipFile(path, "w") as files:
        files.writestr(source.weights, content)
        files.writestr(source.licence, "MIT")
    return dataclasses.replace(source, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("name", SOURCES)
def test_the_converted_model_computes_the_same(tmp_path, name):
    model, buffer = original(name), io.BytesIO()
    torch.save(pickled(name, model), buffer)
    source = wheel_of(tmp_path / "x.whl", small(name), buffer.getvalue())
    convert(source, tmp_path / "x.whl", tmp_path / "out")
    policy, tokenizer, mask = load_policy(tmp_path / "out", load_model("masked_lm"))
    assert (tmp_path / "out" / "LICENSE").read_text() == "MIT" and tokenizer.id_to_token(mask) == source.mask
    sequence = "EVQLVESGG"
    ids = torch.tensor(tokenizer.encode(sequence, add_special_tokens=False).ids)[None]
    assert [source.vocabulary[token] for token in ids[0]] == list(sequence)
    ids[0, 3] = mask
    framed = torch.tensor(tokenizer.encode(sequence).ids)[None]
    framed[0, 4] = mask
    with torch.no_grad():
        wanted, found = model(input_ids=framed).logits[0, 1:-1], policy(input_ids=ids).logits[0]
    residues = slice(4, 24) if name == "sapiens-vh" else slice(5, 25)
    torch.testing.assert_close(found[:, residues], wanted[:, residues], atol=1e-5, rtol=1e-5)
    assert set(found[0].exp().nonzero()[:, 0].tolist()) == set(range(residues.start, residues.stop))


class Code:
    def __reduce__(self) -> tuple:
        return (open, ("ran", "w"))


def test_what_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = wheel_of(tmp_path / "x.whl", SOURCES["antiberty"], pickle.dumps(Code(), protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        convert(source, tmp_path / "x.whl", tmp_path / "out")
    with pytest.raises(PipelineError, match=r"has the SHA-256 .*, not 30d910992b19"):
        convert(SOURCES["antiberty"], tmp_path / "x.whl", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["antibody_models", "antiberty", "--wheel", "x.whl"])
    assert said(antibody_models.main).startswith("x.whl: has the SHA-256")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()
