"""The plug-in of every family: made, opened, saved and adapted alike, in the layout of its checkpoints.

The network itself is in `network`.
"""

from collections.abc import Set as AbstractSet
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pipeline.errors import PipelineError
from pipeline.models import adapters
from pipeline.models.base import Model, recompute_layers
from pipeline.models.family import Family
from pipeline.models.files.family import check_tensors, read_sizes
from pipeline.models.network import MaskedDiffusionModel, body_class
from pipeline.settings.sections import ModelSection
from pipeline.storage.model_files import MALFORMED, base_of_adapters


def hub_name(family: Family, name: str) -> str:
    """A tensor's name on the Hub, from the body's."""
    for names in family.tensors.items():
        renamed, pattern = WeightRenaming(*names).reverse_transform().rename_source_key(name)
        if pattern is not None:
            return str(renamed)
    return name


@cache
def config_class(family: Family) -> Any:
    """The body's configuration, with bidirectional attention and the id of [MASK].

    `original` is the config.json of a checkpoint from the Hub; a model opened from one is saved with it.
    """

    class FamilyConfig(body_class(family, "Config")):  # type: ignore[misc]  # known when the program runs
        model_type = family.kind
        is_causal: bool = False
        use_cache: bool = False
        mask_token_id: int | None = None
        pad_token_id: int | None = None
        bos_token_id: int | None = None
        eos_token_id: int | list[int] | None = None
        original: dict[str, Any] | None = None

        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            """From a config.json. ValueError or KeyError for one that `Family.of_config` refuses."""
            return super().from_dict(family.of_config(config_dict), **kwargs)

        def to_diff_dict(self) -> dict[str, Any]:
            """The contents of config.json, with the current type of the weights and the length of blocks."""
            if self.original is None:
                return super().to_diff_dict()  # type: ignore[no-any-return]
            kept = {key: value for key, value in self.original.items() if key not in family.left_out}
            if family.block_length and self.block_size != family.of_config(self.original)["block_size"]:
                kept["block_size"] = self.block_size
            return {**kept, "dtype" if "dtype" in kept else "torch_dtype": str(self.dtype).removeprefix("torch.")}

    FamilyConfig.__name__ = FamilyConfig.__qualname__ = f"{family.name.title()}Config"
    renamed: list[WeightConverter | WeightRenaming] = [WeightRenaming(*names) for names in family.tensors.items()]
    if renamed:
        register_checkpoint_conversion_mapping(family.kind, renamed, overwrite=True)
    return FamilyConfig


@cache
def model_class(family: Family) -> type[MaskedDiffusionModel]:
    """The class of a family, which transformers' Auto classes know from now on."""
    config = config_class(family)
    blocks = {"_no_split_modules": [f"{family.body}DecoderLayer"]}
    made = type(family.architecture, (MaskedDiffusionModel,), {"family": family, "config_class": config, **blocks})
    AutoConfig.register(family.kind, config, exist_ok=True)
    AutoModelForMaskedLM.register(config, made, exist_ok=True)
    return made


def create(
    family: Family, settings: ModelSection, vocabulary: int, mask_id: int, length: int = 0
) -> MaskedDiffusionModel:
    """Answers may have any length."""
    family.check_blocks({}, settings.block_length)
    sizes = settings.model_dump(exclude={"name", "dtype", "rope_theta", "block_length"})
    if family.block_length:
        sizes["block_size"] = settings.block_length or family.block_length
    sizes |= {"vocab_size": vocabulary, "mask_token_id": mask_id, "num_key_value_heads": settings.num_attention_heads}
    rope = {"rope_type": "default", "rope_theta": settings.rope_theta}
    return model_class(family)(config_class(family)(rope_parameters=rope, **sizes))


def load(family: Family, path: Path, device: torch.device | str = "cpu") -> MaskedDiffusionModel:
    """Open a saved model, a checkpoint in the Hub's layout, or saved adapters together with the base that they name.

    Weights are read from the files straight to the device.

    Raises:
        PipelineError: if the directory holds no model or another architecture, or a tensor is missing, unexpected or
            of another shape; for adapters, if the base is not the one that they were trained on.
    """
    if adapters.are_in(path):
        base = load(family, base_of_adapters(path), device)
        adapters.add_saved(base, path)
        base.eval()
        return base
    check_tensors(path, family)
    try:
        model = model_class(family).from_pretrained(
            path, device_map={"": torch.device(device)}, local_files_only=True, use_safetensors=True
        )
    except (OSError, RuntimeError, SafetensorError, StrictDataclassError, *MALFORMED) as error:
        raise PipelineError(f"cannot load the weights in '{path}': {str(error)[:300]}") from error
    model.eval()
    return model


def restrict(model: nn.Module, known: AbstractSet[int]) -> None:
    """Never predict an id outside `known`: published models have more rows in their vocabulary than tokens."""
    network = cast(MaskedDiffusionModel, model)
    unused = sorted(set(range(network.config.vocab_size)) - known)
    network.unused = torch.tensor(unused, device=network.device) if unused else None


def adopt(family: Family, model: nn.Module, settings: ModelSection) -> None:
    """Set the length of blocks, if it is given; PipelineError if the checkpoint says another."""
    config = cast(MaskedDiffusionModel, model).config
    family.check_blocks(config.original or config.to_dict(), settings.block_length)
    if settings.block_length:
        config.block_size = settings.block_length


@cache
def plugin(family: Family) -> Model:
    """The plug-in of a family."""
    model_class(family)
    return Model(
        create=partial(create, family),
        load=partial(load, family),
        save=adapters.save_model,
        recompute=recompute_layers,
        adapters=adapters.PLUGIN,
        restrict=restrict,
        check=lambda path: read_sizes(path, family),
        adopt=partial(adopt, family),
        caches_blocks=True,
    )


disable_progress_bar()
set_verbosity_error()  # `load` reports the same problems itself, on one line
