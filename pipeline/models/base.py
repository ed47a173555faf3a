"""The interface of a model plug-in: functions that create, open, save and adapt a model."""

import json
import math
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.errors import PipelineError
from pipeline.runtime.memory_limits import CHUNK
from pipeline.settings.features import lacks
from pipeline.settings.sections import Adapter, ModelSection
from pipeline.storage.model_files import read_config, tensor_headers


@dataclass(frozen=True)
class Output:
    """Logits at the selected positions, in row-major order; or, when a module is given K tokens for each selected
    position, their log-probabilities instead.
    """

    logits: Float[Tensor, "s V"] | None = None
    log_prob: Float[Tensor, "s K"] | None = None

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "s V"], mask_id: int, tokens: Int[Tensor, "s K"] | None) -> "Output":
        """Bans [MASK]; for models whose vocabulary is small enough to hold all logits in memory."""
        logits = logits.masked_fill(torch.arange(logits.shape[-1], device=logits.device) == mask_id, -torch.inf)
        return cls(logits) if tokens is None else cls(log_prob=logits.log_softmax(dim=-1).gather(1, tokens))


def log_prob_in_chunks(
    logits: Callable[..., Float[Tensor, "s V"]],
    hidden: Float[Tensor, "s D"],
    tokens: Int[Tensor, "s K"],
    vocabulary: int,
    *weights: Tensor,
) -> Float[Tensor, "s K"]:
    """log p of the tokens under softmax(logits(hidden, *weights)). At most `CHUNK` logits exist at once, also in the
    backward pass, which computes them again."""

    def of_chunk(hidden: Float[Tensor, "s D"], tokens: Int[Tensor, "s K"], *weights: Tensor) -> Float[Tensor, "s K"]:
        return logits(hidden, *weights).log_softmax(dim=-1).gather(1, tokens)

    rows = max(1, CHUNK // vocabulary)
    if len(hidden) <= rows:
        return of_chunk(hidden, tokens, *weights)
    pieces = zip(hidden.split(rows), tokens.split(rows), strict=True)
    return torch.cat([checkpoint(of_chunk, *piece, *weights, use_reentrant=False) for piece in pieces])


@dataclass(frozen=True)
class Adapters:
    """Small trainable weights on a frozen base, for models that take them.

    Attributes:
        train: (module, the section `train.adapter`, directory of the base, directory to write): make only the module's
            adapters trainable: those it was opened with, or fresh ones drawn from PyTorch's global generator.
        share: (module that trains, policy directory) -> the frozen policy saved there, on the module's own base
            weights; None if it was trained from another base. Call it before the first update.
        merge: (module): add the adapters to the weights and remove them.
    """

    train: Callable[[nn.Module, Adapter, Path, Path], None]
    share: Callable[[nn.Module, Path], nn.Module | None]
    merge: Callable[[nn.Module], None]


@dataclass(frozen=True)
class Model:
    """A kind of model. Its modules map (input_ids [n, T], select [n, T]) to an `Output` with logits [s, V]; with
    tokens [s, K] as a third input, to one with log_prob [s, K]. Where rows differ in length they also get
    attention_mask [n, T], 0 at padding. In training with several processes every trainable parameter must take part in
    every pass.

    Attributes:
        create: (the section `model`, vocabulary size, id of [MASK], answer length) -> a module with fresh weights,
            drawn from PyTorch's global generator.
        load: (directory, device) -> module on that device; PipelineError unless it holds exactly this architecture.
        save: (module, directory).
        install: (module, token ids of the M values, log-posteriors [2, M + 1, M] as in `ctmc.exact`): set the module's
            posteriors to these. None if it cannot represent arbitrary ones.
        recompute: (module): turn gradient checkpointing on. None if the model does not support it.
        adapters: None if the model does not support adapters.
        restrict: (module, token ids): never predict any other token. None if every row of the vocabulary is a token.
        check: (directory) -> its checked config.json, with `max_position_embeddings` and `eos_token_id`; PipelineError
            unless this model implements what that describes. None if the model says nothing without its weights.
        adopt: (module, the section `model`): apply what the section says of a saved model that becomes a base.
            PipelineError if that contradicts the model's own configuration. None if it says nothing.
        caches_blocks: whether the modules take a `block_cache.BlockCache` as the input `cache`: passes over one block
            of a sequence, with the keys and values of all other positions from an earlier pass.
    """

    create: Callable[[ModelSection, int, int, int], nn.Module]
    load: Callable[[Path, torch.device | str], nn.Module]
    save: Callable[[nn.Module, Path], None]
    install: Callable[[nn.Module, Int[Tensor, " M"], Float[Tensor, "2 S M"]], None] | None = None
    recompute: Callable[[nn.Module], None] | None = None
    adapters: Adapters | None = None
    restrict: Callable[[nn.Module, AbstractSet[int]], None] | None = None
    check: Callable[[Path], object] | None = None
    adopt: Callable[[nn.Module, ModelSection], None] | None = None
    caches_blocks: bool = False


def check_features(plugin: Model, asked: Iterable[str]) -> None:
    """PipelineError if the model cannot do what a key such as `train.adapter` asks; see `settings.features`."""
    has = {"adapter": plugin.adapters, "cache": plugin.caches_blocks, "gradient_checkpointing": plugin.recompute}
    for key in asked:
        if not has[key.rpartition(".")[2]]:
            raise PipelineError(lacks(key, "this model"))


def recompute_layers(module: nn.Module) -> None:
    """`Model.recompute` of models of transformers: only the input of each layer is kept."""
    cast(Any, module).activation_checkpointing_enable({"use_reentrant": False})


def blocks_of(module: nn.Module) -> int | None:
    """B, if position i sees j only where ⌊j/B⌋ ≤ ⌊i/B⌋, counted from the first token of the prompt. None otherwise."""
    found: int | None = getattr(module, "block_length", None)
    return found


def moves_padding(module: nn.Module) -> bool:
    """Whether the module takes the padding of a row to its end, so that its tokens follow each other."""
    return bool(getattr(module, "padding_moves", False))


class SmallModule(nn.Module):
    """A model whose constructor takes `sizes`, whole numbers. config.json holds them, and `kind` as `model_type`."""

    kind: ClassVar[str]
    sizes: dict[str, int]


def save_module(module: nn.Module, path: Path) -> None:
    """Write config.json and model.safetensors of a `SmallModule`."""
    small = cast(SmallModule, module)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": small.kind, **small.sizes}), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path / "model.safetensors")


def load_module(build: type[SmallModule], path: Path, device: torch.device | str = "cpu") -> nn.Module:
    """Open what `save_module` wrote; PipelineError if a tensor is missing, unexpected, or of another shape or type."""
    sizes = {name: value for name, value in read_config(path, build.kind).items() if name != "model_type"}
    values = sum(math.prod(header.shape) for header in tensor_headers(path).values())
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= values:
            raise PipelineError(f"'{path}': config.json says {name}: {size!r}, but the weights have {values} values")
    try:
        module = build(**sizes)
        module.load_state_dict(load_file(path / "model.safetensors"))
        module.to(device)
    except (OSError, RuntimeError, TypeError, OverflowError, SafetensorError) as error:
        raise PipelineError(f"cannot load the weights in '{path}': {str(error)[:300]}") from error
    return module.eval()
