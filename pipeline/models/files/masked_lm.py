"""What the files of a masked language model say, in the layout of transformers: checked before any weight is read.

Without PyTorch. Code that comes with a checkpoint is never run: an architecture that needs some is refused.
"""

import math
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import PipelineError
from pipeline.settings.validation import describe
from pipeline.storage.model_files import ADAPTER_CONFIG, base_of_adapters, open_config, tensor_headers
from pipeline.text.special_tokens import read_frame


class Kind(NamedTuple):
    """An architecture of transformers.

    Attributes:
        head: the modules that turn the last hidden states into logits, in this order.
        offset: positions are counted from `pad_token_id` + 1, as in fairseq; those before it cannot be used.
        unused: parameters that no logit depends on, by the end of their module's name.
    """

    head: tuple[str, ...]
    offset: bool = False
    unused: str = ""


NAME = "masked_lm"
"""`model.name`."""
LM_HEAD = ("lm_head",)
KINDS = {
    "bert": Kind(("cls",)),
    "camembert": Kind(LM_HEAD, offset=True),
    "distilbert": Kind(("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector")),
    "electra": Kind(("generator_predictions", "generator_lm_head")),
    "esm": Kind(LM_HEAD, offset=True, unused="contact_head"),
    "esmc": Kind(LM_HEAD),
    "eurobert": Kind(LM_HEAD),
    "modernbert": Kind(("head", "decoder")),
    "roberta": Kind(LM_HEAD, offset=True),
    "xlm-roberta": Kind(LM_HEAD, offset=True),
}
"""By `model_type`. Another encoder belongs here if its head acts on each position alone and its attention is
bidirectional; tests/models/test_masked_lm.py compares each with transformers."""
OFF = ("is_decoder", "add_cross_attention", "is_encoder_decoder", "is_folding_model", "quantization_config")
"""Options that must be false or null."""

Size = Annotated[int, Field(ge=1, le=10**7)]
Token = Annotated[int, Field(ge=0)]


def _named(*names: str) -> Any:
    return Field(validation_alias=AliasChoices(*names))


class Sizes(BaseModel):
    """The entries of config.json that say how large the model is, under BERT's keys; DistilBERT has its own.

    `max_position_embeddings` is the number of tokens of prompt and answer that the model takes.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)

    model_type: str
    vocab_size: Size
    hidden_size: Size = _named("hidden_size", "dim")
    intermediate_size: Size = _named("intermediate_size", "hidden_dim")
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)] = _named("num_hidden_layers", "n_layers")
    num_attention_heads: Size = _named("num_attention_heads", "n_heads")
    num_key_value_heads: Size | None = None
    max_position_embeddings: Size
    pad_token_id: Token | None = None
    eos_token_id: Token | list[Token] | None = None
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _fit(self) -> "Sizes":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.hidden_size} values do not split into {self.num_attention_heads} heads")
        if (self.pad_token_id or 0) >= self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} is not in a vocabulary of {self.vocab_size}")
        return self


def read_sizes(path: Path) -> Sizes:
    """The checked config.json of a saved masked language model; of adapters, that of their base.

    Raises:
        PipelineError: for a missing file, an architecture that is not supported, or an impossible value.
    """
    if (path / ADAPTER_CONFIG).is_file():
        return read_sizes(base_of_adapters(path))
    config = _config(path)
    for key in OFF:
        if config.get(key):
            raise PipelineError(f"'{path}': config.json says {key}: {str(config[key])[:80]}, which is not supported")
    try:
        sizes = Sizes.model_validate(config)
    except ValidationError as error:
        raise PipelineError(f"'{path}': config.json: {describe(error, Sizes).removeprefix(': ')}") from error
    taken = read_frame(path).size
    if KINDS[sizes.model_type].offset and config.get("position_embedding_type", "absolute") == "absolute":
        taken += (sizes.pad_token_id or 0) + 1
    if taken >= sizes.max_position_embeddings:
        raise PipelineError(f"'{path}': of {sizes.max_position_embeddings} positions (config.json) none is left")
    return sizes.model_copy(update={"max_position_embeddings": sizes.max_position_embeddings - taken})


def check_tensors(path: Path) -> None:
    """PipelineError unless the weights are floats, and among them a table of embeddings as config.json describes it,
    and enough for its layers; reads their headers only."""
    sizes = read_sizes(path)
    if (path / ADAPTER_CONFIG).is_file():
        check_tensors(base_of_adapters(path))
        return
    shapes = [header.shape for header in tensor_headers(path).values()]
    if not any(len(shape) == 2 and shape[0] == sizes.vocab_size for shape in shapes):
        raise PipelineError(
            f"'{path}': config.json says vocab_size: {sizes.vocab_size}, but no tensor has as many rows"
        )
    width, layers, values = sizes.hidden_size, sizes.num_hidden_layers, sum(map(math.prod, shapes))
    if layers * width * (width + sizes.intermediate_size) > values:
        size = f"{layers} layers of width {width} and {sizes.intermediate_size}"
        raise PipelineError(f"'{path}': config.json says {size}, but the weights have {values} values")


def linear_layers(path: Path) -> list[str]:
    """The names of the linear layers of the blocks, which adapters may be put on."""
    base = base_of_adapters(path) if (path / ADAPTER_CONFIG).is_file() else path
    names = (name for name, header in tensor_headers(base).items() if len(header.shape) == 2)
    return [name.removesuffix(".weight") for name in names if ".layer." in name or ".layers." in name]


def _config(path: Path) -> dict[str, Any]:
    """config.json, of an architecture in `KINDS`."""
    config = open_config(path)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        code = ", and code of its own (auto_map) is never run" if config.get("auto_map") else ""
        raise PipelineError(f"'{path}' holds the architecture '{kind}', not one of {', '.join(KINDS)}{code}")
    return config
