"""A policy directory: a model, or adapters of one, and its tokenizer."""

import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Tokenizer
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.base import Model
from pipeline.runtime.distributed import distribute, is_sharded
from pipeline.runtime.random_streams import Stream, seed_torch
from pipeline.settings.sections import Train
from pipeline.storage.atomic_files import replacing
from pipeline.text.prompts import read_tokenizer_config
from pipeline.text.tokenizer import CHAT_TEMPLATE, TOKENIZER_CONFIG, load_tokenizer, mask_id, token_ids

BESIDE = (CHAT_TEMPLATE, "special_tokens_map.json", "generation_config.json")
"""Files about a tokenizer that stay with a checkpoint as they came."""


def find_checkpoint(name: str) -> Path:
    """The directory of a saved model: `name` itself, or the files of that name on the Hub, none of which is code."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(f"'{name}' is neither a directory nor a model that the Hub gives: {reason}") from error


def load_policy(path: Path, plugin: Model, device: str | torch.device = "cpu") -> tuple[nn.Module, Tokenizer, int]:
    """(model on a device, tokenizer, id of [MASK]); PipelineError if the directory holds anything else."""
    tokenizer = load_tokenizer(path)
    module = _open(path, tokenizer, plugin)
    own, named = mask_id(tokenizer), getattr(getattr(module, "config", None), "mask_token_id", None)
    if named not in (None, own):
        token = tokenizer.id_to_token(own)
        raise PipelineError(f"'{path}': mask_token_id is {named} in config.json, but {token} is token {own}")
    return module.to(device), tokenizer, own


def load_frozen(path: Path, plugin: Model, beside: nn.Module, device: torch.device) -> nn.Module:
    """A policy that does not train, beside one that does; they share the base weights where these are the same."""
    if plugin.adapters and (shared := plugin.adapters.share(beside, path)) is not None:
        return shared
    module = _open(path, load_tokenizer(path), plugin).requires_grad_(False)
    return distribute(module, sharded=True) if is_sharded(beside) else module.to(device)


def _open(path: Path, tokenizer: Tokenizer, plugin: Model) -> nn.Module:
    """The model, which never predicts a row of its vocabulary that is no token of the tokenizer."""
    module = plugin.load(path)
    for name, value in module.named_parameters():
        if not value.sum(dtype=torch.float32).isfinite():
            raise PipelineError(f"'{path}': the weights '{name}' hold a number that is not finite")
    if plugin.restrict:
        plugin.restrict(module, token_ids(tokenizer))
    return module


def save_policy(path: Path, module: nn.Module, tokenizer: Tokenizer, plugin: Model, source: Path | None = None) -> None:
    """A directory that `from_pretrained` opens; it appears complete or not at all.

    Args:
        source: the directory that the model came from: its chat template and special tokens go with it.
    """
    with replacing(path) as temporary:
        plugin.save(module, temporary)
        _write_tokenizer(temporary, tokenizer, source)


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, source: Path | None) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    kept = read_tokenizer_config(source) if source else {}
    kept.pop("auto_map", None)
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": tokenizer.id_to_token(mask_id(tokenizer))}
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(kept | own), encoding="utf-8")
    for name in BESIDE:
        if source and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def weight_files(path: Path) -> list[Path]:
    """The files that hold a policy's weights."""
    return sorted(path.glob("*.safetensors"))


def make_trainable(module: nn.Module, plugin: Model, train: Train, seed: int, base: Path, out: Path) -> None:
    """Choose what trains: the adapters that the section `train` asks for, else all weights.

    Args:
        base: directory of the base model.
        out: directory that the result will be saved in.
    """
    if train.adapter:
        if plugin.adapters is None:
            raise PipelineError("train.adapter: this model takes no adapters")
        seed_torch(seed, Stream.INITIALIZATION)
        plugin.adapters.train(module, train.adapter, base, out)
    else:
        merge_adapters(module, plugin)
    checkpoint_gradients(module, plugin, train.gradient_checkpointing)


def checkpoint_gradients(module: nn.Module, plugin: Model, wanted: bool) -> None:
    """Recompute activations in the backward pass, where that is wanted."""
    if wanted and plugin.recompute is None:
        raise PipelineError("gradient_checkpointing: this model cannot recompute its activations")
    if wanted and plugin.recompute:
        plugin.recompute(module)


def merge_adapters(module: nn.Module, plugin: Model) -> nn.Module:
    """The model with its adapters, if any, merged into its weights."""
    if plugin.adapters:
        plugin.adapters.merge(module)
    return module


def cast_weights(module: nn.Module, dtype: str) -> nn.Module:
    """The parameters in the type that is named; buffers, such as rotary frequencies, stay as they are."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return module
