"""What not every model can do, and the keys that ask for it. Torch-free."""

from collections.abc import Mapping

from pipeline.settings.validation import Section

FEATURES = {
    "adapter": "takes no adapters",
    "cache": "keeps no keys and values",
    "gradient_checkpointing": "cannot recompute its activations",
}
"""A key of a section that asks for it -> what is said of a model that cannot."""
SAVED_ONLY = ("masked_lm",)
"""Models that are opened, never made from the section `model`."""
SMALL = ("mlp", "tabular")
"""Models whose answers have one length."""
LACKING: Mapping[str, tuple[str, ...]] = {"masked_lm": ("cache",), "mlp": tuple(FEATURES), "tabular": tuple(FEATURES)}
"""What models of this repository cannot do; of a user's own the PLUGIN says it (`models.base.check_features`)."""


def asked_of(section: Section, name: str) -> list[str]:
    """The keys of the section `name` that ask for one of `FEATURES`, such as `train.adapter`."""
    return [f"{name}.{key}" for key in FEATURES if getattr(section, key, None)]


def lacks(key: str, model: str) -> str:
    """What is said of a model that cannot do what a key asks."""
    return f"{key}: {model} {FEATURES[key.rpartition('.')[2]]}; set this key to null"
