"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: W x + (α/r) B A x with A, B in fp32 on a frozen W.

They are injected into the module, which stays what it is. With them off it is the base, to the bit, so that the base
and the round's behavior policy need no second copy of the weights. Saved in peft's layout, with a reference to the
base: a path from the adapters' directory, so that a run can be moved, and a fingerprint of its weights.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.base import Adapters
from pipeline.runtime.distributed import shard_like
from pipeline.storage.atomic_files import read_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = "default"
PREFIX = "base_model.model."
"""Of every tensor's name in peft's layout."""
MATCHED = ("r", "lora_alpha", "target_modules")


class Frozen(nn.Module):
    """Another policy on the weights of a module that trains: its base, or other adapters in the place of its own."""

    def __init__(self, module: nn.Module, values: dict[str, Tensor] | None):
        super().__init__()
        self.shared, self.values = (module,), values  # a tuple: no submodule, whose parameters would count twice

    @torch.no_grad()
    def forward(self, **inputs: Any) -> Any:
        module = self.shared[0]
        with _quiet(module), _off(module) if self.values is None else _instead(module, self.values):
            return module(**inputs)


def are_in(path: Path) -> bool:
    return (path / CONFIG).is_file()


def are_on(module: nn.Module) -> bool:
    return hasattr(module, "peft_config")


def base_of(path: Path) -> Path:
    """The directory of the base that saved adapters name.

    Raises:
        PipelineError: if it is not there.
    """
    reference = str(_config(path).base_model_name_or_path)
    for candidate in (path / reference, Path(reference)):
        if (candidate / "config.json").is_file():
            return candidate
    raise PipelineError(
        f"'{path / CONFIG}': base_model_name_or_path names '{reference}', which is not a model directory"
    )


def add_saved(base: nn.Module, path: Path) -> None:
    """Put saved adapters on their base, frozen.

    Raises:
        PipelineError: for adapters of another base, of another kind, or with tensors missing or left over.
    """
    base.adapter_fingerprint = fingerprint(base)  # type: ignore[assignment]
    values = _saved(path, str(base.adapter_fingerprint))
    _inject(base, _config(path), f"'{path / CONFIG}'")
    own = dict(own_parameters(base))
    _check(values, own, path)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(values[name])
            parameter.requires_grad_(False)
    base.adapter_home = base_of(path).resolve()  # type: ignore[assignment]


def train(module: nn.Module, section: Any, base: Path, out: Path) -> None:
    """Only adapters train from now on: those that the module was opened with, or fresh ones, which change nothing yet.

    Raises:
        PipelineError: if `section` asks for others than the module has, or names a target that it lacks.
    """
    wanted = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=list(section.targets),
        base_model_name_or_path=os.path.relpath(base, out),
    )
    if not are_on(module):
        module.adapter_fingerprint = fingerprint(module)  # type: ignore[assignment]
        _inject(module, wanted, "train.adapter")
    found = _configs(module)[NAME]
    for key in MATCHED:
        if getattr(found, key) != getattr(wanted, key):
            raise PipelineError(
                f"train.adapter: the policy's adapters have {key} {getattr(found, key)}, not {getattr(wanted, key)}"
            )
    for layer in _layers(module):
        layer.lora_dropout[NAME] = nn.Dropout(section.dropout).train(module.training)
    _configs(module)[NAME] = wanted
    module.adapter_home = base.resolve()  # type: ignore[assignment]
    module.requires_grad_(False)
    for _, parameter in own_parameters(module):
        parameter.requires_grad_(True)


def share(module: nn.Module, path: Path) -> nn.Module | None:
    """The model of a directory, frozen, on the base weights of the module; None for another base's."""
    if not are_on(module) or (base_of(path) if are_in(path) else path).resolve() != module.adapter_home:
        return None
    if not are_in(path):
        return Frozen(module, None)
    own, values = dict(own_parameters(module)), _saved(path, str(module.adapter_fingerprint))
    _check(values, own, path)
    return Frozen(module, {name: shard_like(values[name], parameter) for name, parameter in own.items()})


def save(module: nn.Module, path: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, as peft's own `PeftModel.from_pretrained` reads them."""
    path.mkdir(parents=True, exist_ok=True)
    _configs(module)[NAME].save_pretrained(str(path))
    tensors = {_saved_name(name): value.detach().cpu().contiguous() for name, value in own_parameters(module)}
    save_file(tensors, path / WEIGHTS, {"format": "pt", "base": str(module.adapter_fingerprint)})


def merge(module: nn.Module) -> None:
    """W + (α/r) B A in the place of W; the module is an ordinary one again."""
    if not are_on(module):
        return
    for name, layer in [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]:
        layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer.get_base_layer())
    del module.peft_config
    module.requires_grad_(True)


def fingerprint(module: nn.Module) -> str:
    """A digest of the base weights: names, shapes and up to 64 values of each, independent of files and sharding."""
    total = hashlib.sha256()
    own = {id(parameter) for _, parameter in own_parameters(module)}
    for name, parameter in module.named_parameters():
        if id(parameter) not in own:
            sample = parameter.detach().flatten()[:: max(1, parameter.numel() // 64)][:64]
            total.update(f"{name.replace('.base_layer', '')} {tuple(parameter.shape)}".encode())
            total.update(sample.float().cpu().numpy().tobytes())
    return total.hexdigest()


def own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The adapters' parameters by name."""
    return ((name, parameter) for name, parameter in module.named_parameters() if ".lora_" in name)


def _saved(path: Path, base: str) -> dict[str, Tensor]:
    """The saved tensors under the module's names; `base` is the fingerprint that they should have."""
    tensors, metadata = read_tensors(path / WEIGHTS)
    if metadata.get("base", base) != base:
        raise PipelineError(f"'{path}' holds adapters of another base than '{base_of(path)}' is now")
    return {name.removeprefix(PREFIX).replace(".weight", f".{NAME}.weight"): tensors[name] for name in tensors}


def _saved_name(name: str) -> str:
    return PREFIX + name.replace(f".{NAME}.", ".")


def _check(values: dict[str, Tensor], own: dict[str, nn.Parameter], path: Path) -> None:
    wrong = sorted(values.keys() ^ own.keys()) or [name for name in own if own[name].shape != values[name].shape]
    if wrong:
        raise PipelineError(f"'{path / WEIGHTS}' does not fit its {CONFIG} and base: see '{_saved_name(wrong[0])}'")


def _config(path: Path) -> LoraConfig:
    try:
        config = PeftConfig.from_pretrained(str(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PipelineError(f"cannot read '{path / CONFIG}': {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, LoraConfig):
        raise PipelineError(f"'{path}' holds adapters of the kind {config.peft_type}, not LORA")
    return config


def _inject(module: nn.Module, config: LoraConfig, source: str) -> None:
    try:
        inject_adapter_in_model(config, module, NAME)
    except ValueError as error:
        raise PipelineError(f"{source}: {' '.join(str(error).split())[:200]}") from error
    for _, parameter in own_parameters(module):
        parameter.data = parameter.data.float()


def _configs(module: nn.Module) -> dict[str, LoraConfig]:
    configs: dict[str, LoraConfig] = module.peft_config  # type: ignore[assignment]
    return configs


def _layers(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


@contextmanager
def _quiet(module: nn.Module) -> Iterator[None]:
    """Without dropout and recomputation."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def _off(module: nn.Module) -> Iterator[None]:
    """peft's own switch freezes the adapters as well, which the graph of a loss and FSDP2 would notice."""
    for layer in _layers(module):
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in _layers(module):
            layer._disable_adapters = False


@contextmanager
def _instead(module: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Through `.data`: a backward pass that is still to come sees its own values again."""
    own = {name: parameter.data.clone() for name, parameter in own_parameters(module)}
    for name, parameter in own_parameters(module):
        parameter.data.copy_(values[name])
    try:
        yield
    finally:
        for name, parameter in own_parameters(module):
            parameter.data.copy_(own[name])


PLUGIN = Adapters(train=train, share=share, merge=merge)
