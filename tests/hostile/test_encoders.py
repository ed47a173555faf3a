"""Checkpoints of masked language models: config.json, tokenizer, weights."""

import json
from functools import cache
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import masked_lm
from pipeline.models.policy_directory import load_policy, save_policy
from tests.hostile.harness import changed, damaged, examples, json_bytes, line_of, working_directory
from tests.models import encoders

KINDS = ("roberta", "modernbert", "esm")
JSON = ("config.json", "tokenizer.json")


@cache
def checkpoint(kind: str) -> dict[str, bytes]:
    with working_directory() as work:
        path = encoders.write(work / "base", kind)
        return {file.name: file.read_bytes() for file in path.iterdir()}


def use(path: Path) -> None:
    """Open a policy, ask it something, and write it again."""
    module, tokenizer, mask = load_policy(path, masked_lm.PLUGIN)
    with torch.no_grad():
        module(input_ids=torch.tensor([[mask, mask]]))
    save_policy(Path("again"), module, tokenizer, masked_lm.PLUGIN, path)


@examples(60)
@given(st.sampled_from(KINDS), st.sampled_from((*JSON, "model.safetensors")), st.data())
def test_files(kind, name, data):
    valid = checkpoint(kind)[name]
    if name in JSON:
        text = data.draw(changed(json.loads(valid)).map(json_bytes) | damaged(valid))
    else:
        size = int.from_bytes(valid[:8], "little")
        made = data.draw(changed(json.loads(valid[8 : 8 + size])).map(json_bytes))
        text = data.draw(st.just(len(made).to_bytes(8, "little") + made + valid[8 + size :]) | damaged(valid))
    with working_directory() as work:
        (work / "base").mkdir()
        for file, content in {**checkpoint(kind), name: text}.items():
            (work / "base" / file).write_bytes(content)
        line_of(lambda: use(work / "base"), str(work))
