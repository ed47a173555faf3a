"""The plug-in of every family: made, opened, saved and adapted alike. The network itself is in `network`."""

from collections.abc import Set as AbstractSet
from functools import cache, partial
from pathlib import Path
from typing import cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pipeline.errors import PipelineError
from pipeline.models import adapters
from pipeline.models.base import Model
from pipeline.models.checkpoint import config_class
from pipeline.models.family import Family, check_tensors, read_sizes
from pipeline.models.network import MaskedDiffusionModel
from pipeline.settings.sections import ModelSection
from pipeline.storage.model_files import MALFORMED, base_of_adapters


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


def save(model: nn.Module, path: Path) -> None:
    """Write a directory that `load` and `from_pretrained` open: tensors under the Hub's names, or only the adapters."""
    if adapters.are_on(model):
        adapters.save(model, path)
    else:
        cast(MaskedDiffusionModel, model).save_pretrained(path)


def recompute(model: nn.Module) -> None:
    """Keep only the input of each layer and compute the layer again in the backward pass."""
    cast(MaskedDiffusionModel, model).activation_checkpointing_enable({"use_reentrant": False})


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
        save=save,
        recompute=recompute,
        adapters=adapters.PLUGIN,
        restrict=restrict,
        check=lambda path: read_sizes(path, family),
        adopt=partial(adopt, family),
        caches_blocks=True,
    )


disable_progress_bar()
set_verbosity_error()  # `load` reports the same problems itself, on one line
