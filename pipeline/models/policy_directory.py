"""Policy directories: the weights of a model, or of its adapters, and a tokenizer."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Tokenizer
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.base import Model, check_features
from pipeline.runtime.distributed import device, distribute, is_sharded
from pipeline.runtime.random_streams import Stream, seed_torch
from pipeline.settings.features import asked_of
from pipeline.settings.sections import Base, Train
from pipeline.storage.atomic_files import replacing
from pipeline.storage.model_files import CONFIG, read_optional
from pipeline.text.special_tokens import CHAT_TEMPLATE, TOKENIZER_CONFIG, read_tokenizer_config
from pipeline.text.tokenizer import load_tokenizer, mask_id, token_ids

BASE_MODEL = "base_model.json"
"""Which checkpoint a run started from, in every policy directory of that run: see `described`."""
COPIED = (CHAT_TEMPLATE, "special_tokens_map.json", "generation_config.json", BASE_MODEL)
"""Files that are copied unchanged from the checkpoint that a policy was made from."""
SMALL = ["*.json", "*.jinja", "merges.txt"]
"""Patterns of the files of a checkpoint that are not its weights; any others are not fetched."""


def find_checkpoint(name: str, plugin: Model, revision: str | None = None) -> Path:
    """The directory of a saved model: `name` itself, or its files from the Hub, without any code; weights come last.

    Args:
        revision: commit, branch or tag on the Hub; None is the newest commit.

    Raises:
        PipelineError: if there is none of this name, or the model does not implement what its config.json describes.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        small = Path(snapshot_download(name, revision=revision, allow_patterns=SMALL))
        if plugin.check:
            plugin.check(small)
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*SMALL, "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise PipelineError(f"'{name}' is neither a directory nor a model on the Hub: {str(error)[:200]}") from error


def load_policy(
    path: Path, plugin: Model, where: str | torch.device = "cpu", *, merged: bool = True
) -> tuple[nn.Module, Tokenizer, int]:
    """(model on a device, tokenizer, id of [MASK]); PipelineError if the directory does not hold a valid policy.

    Adapters are merged into the weights: the law that rollouts and evaluation sample from and record. In bfloat16 the
    merged weights are rounded at random, by a generator of the device, so another kind of device has a law that differs
    by roundings. With `merged` false adapters stay apart, for training.
    """
    tokenizer = load_tokenizer(path)
    module = _open(path, tokenizer, plugin, where)
    mask, config = mask_id(tokenizer), getattr(module, "config", None)
    sizes = getattr(module, "sizes", {})  # of a `SmallModule`
    said = {"mask_token_id": getattr(config, "mask_token_id", None), "mask_id": sizes.get("mask_id")}
    for key, configured in said.items():
        if configured not in (None, mask):
            token = tokenizer.id_to_token(mask)
            raise PipelineError(f"'{path}': {key} is {configured} in config.json, but {token} is token {mask}")
    return merge_adapters(module, plugin) if merged else module, tokenizer, mask


def load_frozen(path: Path, plugin: Model, beside: nn.Module, where: torch.device) -> nn.Module:
    """A frozen policy for use with `beside`, which trains; if their base is the same, they share its weights."""
    if plugin.adapters and (shared := plugin.adapters.share(beside, path)) is not None:
        return shared
    sharded = is_sharded(beside)
    module = _open(path, load_tokenizer(path), plugin, "cpu" if sharded else where).requires_grad_(False)
    return distribute(module, sharded=True) if sharded else module


def _open(path: Path, tokenizer: Tokenizer, plugin: Model, where: str | torch.device) -> nn.Module:
    """The model on a device, restricted to the tokens of the tokenizer; PipelineError if a weight is not finite."""
    module = plugin.load(path, where)
    for name, value in module.named_parameters():
        # On the process's device: a CPU takes many seconds to add 8 billion numbers.
        if not value.to(device()).sum(dtype=torch.float32).isfinite():
            raise PipelineError(f"'{path}': the weights '{name}' hold a number that is not finite")
    if plugin.restrict:
        plugin.restrict(module, token_ids(tokenizer))
    return module


def described(name: str, source: Path) -> dict[str, object]:
    """What an export needs to know of the checkpoint `name`, whose files lie in `source`: its commit on the Hub, and
    where its config.json says that its code is. A policy of another run is described as its own base is.

    Raises:
        PipelineError: if one of these files is no JSON object.
    """
    if (source / BASE_MODEL).is_file():
        return read_optional(source / BASE_MODEL)
    places = read_optional(source / CONFIG).get("auto_map")
    code = {key: place for key, place in places.items() if isinstance(place, str)} if isinstance(places, dict) else {}
    revision = source.name if source.parent.name == "snapshots" else None
    return {"name": name, "revision": revision, "auto_map": code}


def save_policy(
    path: Path,
    module: nn.Module,
    tokenizer: Tokenizer,
    plugin: Model,
    source: Path | None = None,
    base: Mapping[str, object] | None = None,
) -> None:
    """Write a directory that `from_pretrained` opens, complete or not at all. `source`, the directory that the model
    came from, gives chat template and special tokens, and `base` what `described` says of it, if it is a checkpoint."""
    with replacing(path) as temporary:
        plugin.save(module, temporary)
        (temporary / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        kept = read_tokenizer_config(source) if source else {}
        kept.pop("auto_map", None)
        own = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": tokenizer.id_to_token(mask_id(tokenizer))}
        (temporary / TOKENIZER_CONFIG).write_text(json.dumps(kept | own), encoding="utf-8")
        for name in COPIED:
            if source and (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)
        if base:
            (temporary / BASE_MODEL).write_text(json.dumps(base), encoding="utf-8")


def weight_files(path: Path) -> list[Path]:
    """The files with a policy's weights."""
    return sorted(path.glob("*.safetensors"))


def make_trainable(module: nn.Module, plugin: Model, section: Base | Train, seed: int, base: Path, out: Path) -> None:
    """Train adapters if the section asks for them, else all weights, with gradient checkpointing if it says so.

    Args:
        base, out: directories of the base and of the policy to write.

    Raises:
        PipelineError: if the model supports no adapters, or no gradient checkpointing.
    """
    check_features(plugin, asked_of(section, type(section).__name__.lower()))
    if section.adapter:
        assert plugin.adapters
        seed_torch(seed, Stream.INITIALIZATION)
        plugin.adapters.train(module, section.adapter, base, out)
    else:
        merge_adapters(module, plugin)
    if section.gradient_checkpointing:
        assert plugin.recompute
        plugin.recompute(module)


def merge_adapters(module: nn.Module, plugin: Model) -> nn.Module:
    """The model with its adapters, if any, merged into its weights."""
    if plugin.adapters:
        plugin.adapters.merge(module)
    return module


def cast_weights(module: nn.Module, dtype: str) -> nn.Module:
    """Convert the parameters to `dtype`. Buffers, such as rotary frequencies, keep their type."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return module
