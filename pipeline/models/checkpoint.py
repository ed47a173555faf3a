"""LLaDA's layout on the Hub for transformers: the configuration class, and the names of the tensors."""

from typing import Any

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming
from transformers.models.llama.configuration_llama import LlamaConfig

from pipeline.models.llada_files import KIND, TENSORS, to_llama


class LladaConfig(LlamaConfig):
    """A `LlamaConfig` with bidirectional attention and the id of [MASK].

    `original` is the config.json of a checkpoint in the Hub's layout; a model opened from one is saved with it.
    """

    model_type = KIND
    is_causal: bool = False
    use_cache: bool = False
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    original: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From the Hub's layout or a Llama's, without pad_token_id, whose embedding would get no gradient.

        Raises:
            ValueError: for an option of the Hub's architecture that this model does not implement.
        """
        llama = to_llama(config_dict) if "d_model" in config_dict else {**config_dict, "pad_token_id": None}
        return super().from_dict(llama, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """The contents of config.json, without references to code and with the current type of the weights."""
        if self.original is None:
            return super().to_diff_dict()
        kept = {key: value for key, value in self.original.items() if key not in ("auto_map", "dtype")}
        return {**kept, "torch_dtype": str(self.dtype).removeprefix("torch.")}


RENAMED: list[WeightConverter | WeightRenaming] = [WeightRenaming(theirs, ours) for theirs, ours in TENSORS.items()]
register_checkpoint_conversion_mapping(LladaConfig.model_type, RENAMED, overwrite=True)
