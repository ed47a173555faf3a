"""A family's configuration for transformers, and the names of its tensors on the Hub."""

import importlib
from functools import cache
from typing import Any

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from pipeline.models.family import Family


def hub_name(family: Family, name: str) -> str:
    """A tensor's name on the Hub, from the body's."""
    for names in family.tensors.items():
        renamed, pattern = WeightRenaming(*names).reverse_transform().rename_source_key(name)
        if pattern is not None:
            return str(renamed)
    return name


def body_class(family: Family, ending: str) -> Any:
    """A class of the family's body in transformers: `Config`, `Model` or `DecoderLayer`."""
    package = family.body.lower()
    module = f"configuration_{package}" if ending == "Config" else f"modeling_{package}"
    return getattr(importlib.import_module(f"transformers.models.{package}.{module}"), family.body + ending)


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
