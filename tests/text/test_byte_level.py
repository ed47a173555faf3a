"""Tokenizers that are saved as a vocabulary and merges, as Dream and SDAR have them."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen2Tokenizer

from pipeline.errors import PipelineError
from pipeline.models.policy_directory import load_policy, save_policy
from pipeline.plugins import load_model
from pipeline.text.tokenizer import load_tokenizer, mask_id
from tests.models.families import DREAM, KINDS, write_chat


@pytest.mark.parametrize("name", KINDS)
def test_a_tokenizer_of_vocabulary_and_merges(tmp_path, name):
    """It is that of transformers, with added tokens at their own ids; a saved policy has it as tokenizer.json."""
    kind, plugin = KINDS[name], load_model(name)
    path = write_chat(tmp_path / "hub", kind)
    module, tokenizer, mask = load_policy(path, plugin)
    theirs = Qwen2Tokenizer.from_pretrained(path)
    text = f"<|im_start|>user\nI'll take  12 + 3,\r\n\tnaïve?<|im_end|>{kind.mask}"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert mask == mask_id(tokenizer) == ids[-1] == kind.mask_id
    assert ids == theirs.encode(text, add_special_tokens=False)
    save_policy(tmp_path / "policy", module, tokenizer, plugin, path)
    again = load_tokenizer(tmp_path / "policy")
    assert again.encode(text, add_special_tokens=False).ids == ids and isinstance(again, Tokenizer)
    logits = module(input_ids=torch.tensor([ids])).logits
    assert logits[..., mask].isinf().all() and logits[..., kind.mask_id + 1 :].isinf().all()


def test_a_damaged_tokenizer_is_refused(tmp_path):
    path = write_chat(tmp_path, DREAM)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(PipelineError, match=r"has no tokenizer\.json, and its tokenizer_class is none of Qwen2Tok"):
        load_tokenizer(path)
    del settings["added_tokens_decoder"]["151650"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(PipelineError, match=r"special151651.* is token 151651 in .*, but 151650 here"):
        load_tokenizer(path)
