"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: W x + (α/r) B A x with W frozen, A and B in the type of W.

peft injects them into the module in place. Without them the module computes exactly what the base does, and a second
set can be injected beside the one that trains: the base and the behavior policy need no second copy of the weights.
Where nothing trains, the adapters are merged into the weights, which costs no operations in a forward pass.
Adapters are saved in peft's layout, with the path of the base relative to their own directory, so that a run can be
moved, and with a fingerprint of the base's weights.
"""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.base import Adapters
from pipeline.models.merging import merge
from pipeline.models.row_dropout import RowDropout
from pipeline.settings.sections import Adapter
from pipeline.storage.atomic_files import read_tensors
from pipeline.storage.fingerprint import fingerprint
from pipeline.storage.model_files import ADAPTER_CONFIG, MALFORMED, base_of_adapters

WEIGHTS = "adapter_model.safetensors"
TRAINED, BEHAVIOR = "default", "behavior"
"""peft's names of the two sets of adapters that a module may hold."""
PREFIX = "base_model.model."
"""The beginning of every tensor's name in peft's layout."""


FREE = {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"}
FREE |= {"layers_to_transform", "layers_pattern", "use_rslora", "base_model_name_or_path", "revision", "inference_mode"}
FREE |= {"task_type", "peft_type", "peft_version", "auto_mapping", "runtime_config"}
"""The options of adapter_config.json that may differ from peft's defaults. The others change what is computed."""


class Frozen(nn.Module):
    """Another policy on the weights of a module that trains: the base alone, or with another set of adapters."""

    def __init__(self, module: nn.Module, adapter: str | None):
        super().__init__()
        # In a tuple the module is no submodule, so that its parameters are not counted twice.
        self.shared, self.active = (module,), [adapter] if adapter else []

    @torch.no_grad()
    def forward(self, **inputs: Any) -> Any:
        """The module's output without dropout or gradient checkpointing.

        peft's own switches, `set_adapter` and `disable_adapters`, also freeze the adapters that train. FSDP2 keeps the
        `requires_grad` that it sees in the first forward pass, so only the list of active adapters is changed here.
        """
        module, training = self.shared[0], self.shared[0].training
        module.eval()
        _activate(module, self.active)
        try:
            return module(**inputs)
        finally:
            _activate(module, [TRAINED])
            module.train(training)


def are_in(path: Path) -> bool:
    return (path / ADAPTER_CONFIG).is_file()


def are_on(module: nn.Module) -> bool:
    return hasattr(module, "peft_config")


def add_saved(base: nn.Module, path: Path) -> None:
    """Put saved adapters on their base, frozen.

    Raises:
        PipelineError: for adapters of another base, of another kind, or with tensors missing or left over.
    """
    base.adapter_fingerprint = fingerprint_of_base(base)  # type: ignore[assignment]
    base.adapter_home = base_of_adapters(path).resolve()  # type: ignore[assignment]
    _load(base, path, TRAINED)


def train(module: nn.Module, section: Adapter, base: Path, out: Path) -> None:
    """Train adapters only: those that the module was opened with, or fresh ones, which at first change no output.

    None is put on the layers that the module names in `without_adapters`, whatever `section.targets` are.

    Raises:
        PipelineError: if `section` does not fit the module's adapters, or names a layer that the module lacks.
    """
    wanted = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=list(section.targets),
        exclude_modules=getattr(module, "without_adapters", None),
        base_model_name_or_path=os.path.relpath(base, out),
    )
    if not are_on(module):
        module.adapter_fingerprint = fingerprint_of_base(module)  # type: ignore[assignment]
        _inject(module, wanted, TRAINED, "train.adapter")
    found = _configs(module)[TRAINED]
    for key in ("r", "lora_alpha", "target_modules"):
        old, new = getattr(found, key), getattr(wanted, key)
        if old != new:
            raise PipelineError(f"train.adapter: the policy's adapters have {key} {old}, not {new}")
    for layer in _layers(module):
        layer.lora_dropout[TRAINED] = RowDropout(section.dropout).train(module.training)
    _configs(module)[TRAINED] = wanted
    module.adapter_home = base.resolve()  # type: ignore[assignment]
    module.requires_grad_(False)
    for _, parameter in own_parameters(module):
        parameter.requires_grad_(True)


def share(module: nn.Module, path: Path) -> nn.Module | None:
    """The frozen policy saved in a directory, on the module's own base weights; None if it has another base.

    A module holds one set of adapters beside its own: sharing another directory's replaces it.
    """
    if not are_on(module) or (base_of_adapters(path) if are_in(path) else path).resolve() != module.adapter_home:
        return None
    if not are_in(path):
        return Frozen(module, None)
    _load(module, path, BEHAVIOR)
    return Frozen(module, BEHAVIOR)


def save_model(module: nn.Module, path: Path) -> None:
    """Write a directory that `from_pretrained` opens: tensors under the official names, or only the adapters."""
    if are_on(module):
        save(module, path)
    else:
        cast(Any, module).save_pretrained(path)


def save(module: nn.Module, path: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, which peft's `PeftModel.from_pretrained` opens too."""
    _configs(module)[TRAINED].save_pretrained(str(path))
    tensors = {name: value.detach().cpu().contiguous() for name, value in _by_saved_name(module, TRAINED).items()}
    save_file(tensors, path / WEIGHTS, {"format": "pt", "base": str(module.adapter_fingerprint)})


def fingerprint_of_base(module: nn.Module) -> str:
    """The fingerprint of the weights without adapters, whatever files they came from."""
    named = ((name.replace(".base_layer", ""), value) for name, value in module.named_parameters())
    return fingerprint((name, value) for name, value in named if ".lora_" not in name)


def own_parameters(module: nn.Module, adapter: str = TRAINED) -> Iterator[tuple[str, nn.Parameter]]:
    """The adapters' parameters by name."""
    found = module.named_parameters()
    return ((name, value) for name, value in found if ".lora_" in name and f".{adapter}." in name)


def _by_saved_name(module: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    return {_saved_name(name, adapter): value for name, value in own_parameters(module, adapter)}


def _saved_name(name: str, adapter: str) -> str:
    return PREFIX + name.replace(f".{adapter}.", ".")


@torch.no_grad()
def _load(module: nn.Module, path: Path, adapter: str) -> None:
    """Inject the saved adapters as the set `adapter`, frozen; parameters that the module already has stay."""
    tensors, metadata = read_tensors(path / WEIGHTS)
    if metadata.get("base", module.adapter_fingerprint) != module.adapter_fingerprint:
        raise PipelineError(f"'{path}' holds adapters of another base than '{base_of_adapters(path)}' is now")
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise PipelineError(f"'{path}': the tensor '{name}' has the type {value.dtype}, not a float")
    _inject(module, _config(path), adapter, f"'{path / ADAPTER_CONFIG}'", empty=True)
    own = _by_saved_name(module, adapter)
    wrong = sorted(tensors.keys() ^ own.keys()) or [name for name in own if own[name].shape != tensors[name].shape]
    if wrong:
        raise PipelineError(f"'{path / WEIGHTS}' does not fit its {ADAPTER_CONFIG} and base: see '{wrong[0]}'")
    for name in [name for name, _ in own_parameters(module, adapter)]:
        path_of_owner, _, attribute = name.rpartition(".")
        layer: Any = module.get_submodule(name.split(".lora_")[0])
        weight, saved = layer.get_base_layer().weight, tensors[_saved_name(name, adapter)]
        value = nn.Parameter(saved.to(weight.device, weight.dtype), requires_grad=False)
        setattr(module.get_submodule(path_of_owner), attribute, value)


def _config(path: Path) -> LoraConfig:
    try:
        config = PeftConfig.from_pretrained(str(path))
    except (OSError, *MALFORMED) as error:
        raise PipelineError(f"cannot read '{path / ADAPTER_CONFIG}': {str(error)[:200]}") from error
    if not isinstance(config, LoraConfig):
        raise PipelineError(f"'{path}' holds adapters of the kind {config.peft_type}, not LORA")
    for key, value in vars(LoraConfig()).items():
        if key not in FREE and getattr(config, key) != value and not _gaussian(key, getattr(config, key)):
            problem = f"{key}: {getattr(config, key)!r}, this project supports only {value!r}"
            raise PipelineError(f"'{path / ADAPTER_CONFIG}' says {problem}")
    return config


def _gaussian(key: str, value: object) -> bool:
    """Whether this option only says how fresh adapters were drawn, which does not matter for trained ones."""
    return key == "init_lora_weights" and value in (False, "gaussian")


def _inject(module: nn.Module, config: LoraConfig, adapter: str, source: str, *, empty: bool = False) -> None:
    """Add a set of adapters, with random A and B = 0; or `empty`, without memory or values."""
    try:
        with warnings.catch_warnings(action="ignore"):  # that there are several sets of adapters
            inject_adapter_in_model(config, module, adapter, low_cpu_mem_usage=empty)
    except MALFORMED as error:
        raise PipelineError(f"{source}: {type(error).__name__}: {str(error)[:200]}") from error
    _activate(module, [TRAINED])


def _activate(module: nn.Module, adapters: list[str]) -> None:
    for layer in _layers(module):
        layer._active_adapter = adapters


def _configs(module: nn.Module) -> dict[str, LoraConfig]:
    configs: dict[str, LoraConfig] = module.peft_config  # type: ignore[assignment]
    return configs


def _layers(module: nn.Module) -> list[LoraLayer]:
    return [layer for layer in module.modules() if isinstance(layer, LoraLayer)]


PLUGIN = Adapters(train=train, share=share, merge=merge)
