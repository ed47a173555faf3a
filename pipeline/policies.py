"""A policy directory: a model and its tokenizer."""

import json
from pathlib import Path
from types import SimpleNamespace

from tokenizers import Tokenizer
from torch import nn

from pipeline.files import replacing
from pipeline.registry import load
from pipeline.text import MASK_TOKEN, load_tokenizer, mask_id


def load_policy(path: Path, settings: SimpleNamespace) -> tuple[nn.Module, Tokenizer, int]:
    """(model, tokenizer, id of [MASK]); PipelineError if the directory holds anything else."""
    model = load("model", settings.model.name).load(path)
    tokenizer = load_tokenizer(path)
    return model, tokenizer, mask_id(tokenizer)


def save_policy(path: Path, model: nn.Module, tokenizer: Tokenizer, settings: SimpleNamespace) -> None:
    """A directory that `from_pretrained` opens; it appears complete or not at all."""
    with replacing(path) as temporary:
        load("model", settings.model.name).save(model, temporary)
        (temporary / "tokenizer.json").write_text(tokenizer.to_str(pretty=True))
        (temporary / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": MASK_TOKEN})
        )
