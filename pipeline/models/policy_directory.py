"""A policy directory: a model, or adapters of one, and its tokenizer."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Tokenizer
from torch import nn

from pipeline.errors import PipelineError
from pipeline.plugins import load
from pipeline.runtime.distributed import is_sharded, spread
from pipeline.runtime.random_streams import Stream, seed_torch
from pipeline.storage.atomic_files import replacing
from pipeline.text.prompts import read_tokenizer_config
from pipeline.text.tokenizer import CHAT_TEMPLATE, TOKENIZER_CONFIG, load_tokenizer, mask_id, token_ids

BESIDE = (CHAT_TEMPLATE, "special_tokens_map.json", "generation_config.json")
"""Files about a tokenizer that stay with a checkpoint as they came."""


def located(name: str) -> Path:
    """The directory of a saved model: `name` itself, or the files of that name on the Hub, none of which is code."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(f"'{name}' is neither a directory nor a model that the Hub gives: {reason}") from error


def load_policy(
    path: Path, settings: SimpleNamespace, on: str | torch.device = "cpu"
) -> tuple[nn.Module, Tokenizer, int]:
    """(model on a device, tokenizer, id of [MASK]); PipelineError if the directory holds anything else."""
    tokenizer = load_tokenizer(path)
    model = _opened(path, tokenizer, settings)
    own, named = mask_id(tokenizer), getattr(getattr(model, "config", None), "mask_token_id", None)
    if named not in (None, own):
        token = tokenizer.id_to_token(own)
        raise PipelineError(f"'{path}': mask_token_id is {named} in config.json, but {token} is token {own}")
    return model.to(on), tokenizer, own


def _opened(path: Path, tokenizer: Tokenizer, settings: SimpleNamespace) -> nn.Module:
    """The model, which never predicts a row of its vocabulary that is no token of the tokenizer."""
    plugin = load("model", settings.model.name)
    model: nn.Module = plugin.load(path)
    for name, value in model.named_parameters():
        if not value.sum(dtype=torch.float32).isfinite():
            raise PipelineError(f"'{path}': the weights '{name}' hold a number that is not finite")
    if plugin.restrict:
        plugin.restrict(model, token_ids(tokenizer))
    return model


def save_policy(
    path: Path, model: nn.Module, tokenizer: Tokenizer, settings: SimpleNamespace, source: Path | None = None
) -> None:
    """A directory that `from_pretrained` opens; it appears complete or not at all.

    Args:
        source: the directory that the model came from: its chat template and special tokens go with it.
    """
    with replacing(path) as temporary:
        load("model", settings.model.name).save(model, temporary)
        _write_tokenizer(temporary, tokenizer, source)


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, source: Path | None) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True))
    kept = read_tokenizer_config(source) if source else {}
    kept.pop("auto_map", None)
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": tokenizer.id_to_token(mask_id(tokenizer))}
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(kept | own))
    for name in BESIDE:
        if source and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def weights(path: Path) -> list[Path]:
    """The files that hold a policy's weights."""
    return sorted(path.glob("*.safetensors"))


def make_trainable(model: nn.Module, settings: SimpleNamespace, base: Path, out: Path) -> None:
    """Choose what the section `train` trains: the adapters that it asks for, else all weights.

    Args:
        base: directory of the base model.
        out: directory that the result will be saved in.
    """
    train, plugin = settings.train, load("model", settings.model.name)
    if train.adapter:
        if plugin.adapters is None:
            raise PipelineError(f"train.adapter: model '{settings.model.name}' takes no adapters")
        seed_torch(settings.seed, Stream.INITIALIZATION)
        plugin.adapters.train(model, train.adapter, base, out)
    else:
        merged(model, settings)
    save_memory(model, train.gradient_checkpointing, settings)


def save_memory(model: nn.Module, wanted: bool, settings: SimpleNamespace) -> None:
    """Gradient checkpointing, where it is wanted."""
    recompute = load("model", settings.model.name).recompute
    if wanted and recompute is None:
        raise PipelineError(f"gradient_checkpointing: model '{settings.model.name}' cannot recompute its activations")
    if wanted:
        recompute(model)


def merged(model: nn.Module, settings: SimpleNamespace) -> nn.Module:
    """The model with its adapters, if any, as part of its weights."""
    adapters = load("model", settings.model.name).adapters
    if adapters:
        adapters.merge(model)
    return model


def rounded(model: nn.Module, dtype: str) -> nn.Module:
    """The parameters in the type that is named; buffers, such as rotary frequencies, stay as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return model


def frozen_policy(path: Path, settings: SimpleNamespace, beside: nn.Module | None, device: torch.device) -> nn.Module:
    """A policy that does not train: on the base weights of the module `beside`, where it has the same, else its own."""
    plugin = load("model", settings.model.name)
    shared: nn.Module | None = plugin.adapters.share(beside, path) if plugin.adapters and beside is not None else None
    if shared is not None:
        return shared
    model = _opened(path, load_tokenizer(path), settings).requires_grad_(False)
    return spread(model, sharded=True) if beside is not None and is_sharded(beside) else model.to(device)
