"""What a model plug-in is: a way to make a fresh model and to open and save one."""

import json
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Output:
    """What a module returns: `logits` at the selected positions, in row-major order, or what it was asked instead.

    `log_prob` are those of K given tokens at each position.
    """

    logits: Float[Tensor, "s V"] | None = None
    log_prob: Float[Tensor, "s K"] | None = None

    @classmethod
    def of(cls, logits: Float[Tensor, "s V"], tokens: Int[Tensor, "s K"] | None) -> "Output":
        """For a vocabulary so small that all logits may exist at once."""
        return cls(logits) if tokens is None else cls(log_prob=logits.log_softmax(dim=-1).gather(1, tokens))


@dataclass(frozen=True)
class Adapters:
    """Small trainable weights on a frozen base, for models that take them.

    Attributes:
        train: (module, the section `train.adapter`, directory of the base, directory to write): from now on only the
            module's adapters train: those it was opened with, or fresh ones, drawn from PyTorch's global generator.
        share: (module that trains, directory) -> the frozen model of that directory on the module's own base weights,
            None where it has others. To be asked before the training begins or while it lasts.
        merge: (module): adapters become part of the weights.
    """

    train: Callable[[nn.Module, Any, Path, Path], None]
    share: Callable[[nn.Module, Path], nn.Module | None]
    merge: Callable[[nn.Module], None]


@dataclass(frozen=True)
class Model:
    """The module that `create` and `load` return maps (input_ids [n, T], select [n, T]) to `.logits` [s, V], and with
    tokens [s, K] as well to `.log_prob` [s, K].

    Attributes:
        create: (the section `model`, vocabulary size, id of [MASK], answer length) -> a module with fresh weights.
        load: directory -> module; PipelineError unless it holds exactly this architecture.
        save: (module, directory).
        install: (module, token ids of the M values, log-posteriors [2, M + 1, M] as in `ctmc.exact`): give the
            module exactly these posteriors. None for models that cannot hold any table.
        recompute: (module): in training, trade the activations' memory for a second forward pass. None: it cannot.
        adapters: None for models that take none.
        restrict: (module, token ids): it never predicts another. None for models whose vocabulary is the tokenizer's.
    """

    create: Callable[[Any, int, int, int], nn.Module]
    load: Callable[[Path], nn.Module]
    save: Callable[[nn.Module, Path], None]
    install: Callable[[nn.Module, Int[Tensor, " M"], Float[Tensor, "2 S M"]], None] | None = None
    recompute: Callable[[nn.Module], None] | None = None
    adapters: Adapters | None = None
    restrict: Callable[[nn.Module, AbstractSet[int]], None] | None = None


def read_config(path: Path, kind: str) -> dict[str, Any]:
    """config.json of a saved model of the architecture `kind`.

    Raises:
        PipelineError: if the directory is not a model's or holds another architecture.
    """
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise PipelineError(f"'{path}' is not a model directory: cannot read its config.json ({error})") from error
    if not isinstance(config, dict):
        raise PipelineError(f"'{path}' is not a model directory: its config.json is not a JSON object")
    if config.get("model_type") != kind:
        raise PipelineError(f"'{path}' holds the architecture '{config.get('model_type')}', not '{kind}'")
    return config


def save_module(module: nn.Module, path: Path, kind: str, sizes: dict[str, int]) -> None:
    """config.json with the arguments of the module's constructor, and its tensors."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": kind, **sizes}))
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path / "model.safetensors")


def load_module(path: Path, kind: str, build: Callable[..., nn.Module]) -> nn.Module:
    """The inverse of `save_module`, every tensor accounted for."""
    sizes = {name: value for name, value in read_config(path, kind).items() if name != "model_type"}
    try:
        module = build(**sizes)
        module.load_state_dict(load_file(path / "model.safetensors"))
    except (OSError, RuntimeError, TypeError, SafetensorError) as error:
        raise PipelineError(f"cannot load the weights in '{path}': {' '.join(str(error).split())[:300]}") from error
    return module.eval()
