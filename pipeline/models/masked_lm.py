"""Masked language models of transformers (BERT, RoBERTa, ModernBERT, ESM, …) as base and policy.

The class of transformers with a forward pass that returns an `Output`: names of tensors, configuration and files are
the official ones. It sees [prompt, answer] as its tokenizer would write it: between its own special tokens, such as
[CLS] … [SEP], and with padding on the right, so that learned positions count from the first token. Nobody outside
learns of either.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pipeline.errors import PipelineError
from pipeline.models import adapters, merging
from pipeline.models.base import Model, Output, log_prob_in_chunks, recompute_layers
from pipeline.models.files.masked_lm import KINDS, check_tensors, read_sizes
from pipeline.settings.sections import ModelSection
from pipeline.storage.model_files import MALFORMED, base_of_adapters
from pipeline.text.special_tokens import Frame, has_chat_template, read_frame, special_ids
from pipeline.text.tokenizer import load_tokenizer, mask_id


class MaskedLm:
    """The forward pass, which `class_of` puts before that of a class of transformers.

    Attributes:
        frame: the special tokens around a sequence.
        limit: the most tokens of prompt and answer.
        banned: ids that are never predicted: [MASK], special tokens, and rows of the vocabulary without a token.
        without_adapters: the linear layers of the head, which sees no rows of the batch, only selected positions.
    """

    padding_moves = True
    frame: Frame
    limit: int
    banned: Int[Tensor, " b"]
    without_adapters: list[str]
    config: Any
    base_model: Callable[..., Any]

    def forward(
        self,
        input_ids: Int[Tensor, "n T"],
        attention_mask: Int[Tensor, "n T"] | None = None,
        select: Bool[Tensor, "n T"] | None = None,
        tokens: Int[Tensor, "s K"] | None = None,
    ) -> Output:
        """Logits at every position or at the selected ones, [s, V], or log-probabilities of `tokens`; arguments as in
        `network`. The head runs on selected positions alone, and logits are fp32."""
        if input_ids.shape[1] > self.limit:
            raise PipelineError(f"prompt and answer have {input_ids.shape[1]} tokens, but the model takes {self.limit}")
        if attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None
        ids, shown, place = self._framed(input_ids, attention_mask)
        hidden = self.base_model(input_ids=ids, attention_mask=shown)[0]
        row, column = (torch.ones_like(input_ids, dtype=torch.bool) if select is None else select).nonzero(
            as_tuple=True
        )
        hidden = hidden[row, place[row, column]]
        if tokens is not None:
            return Output(log_prob=log_prob_in_chunks(self._logits, hidden, tokens, self.config.vocab_size))
        logits = self._logits(hidden)
        return Output(logits.view(*input_ids.shape, -1) if select is None else logits)

    def _framed(
        self, ids: Int[Tensor, "n T"], shown: Int[Tensor, "n T"] | None
    ) -> tuple[Int[Tensor, "n U"], Int[Tensor, "n U"] | None, Int[Tensor, "n T"]]:
        """The input of the model, its attention mask, and where each token went; padding goes nowhere useful."""
        (before, after), rows = self.frame, torch.arange(len(ids), device=ids.device)
        whole = ids.new_full((len(ids), ids.shape[1] + self.frame.size), self.config.pad_token_id or 0)
        whole[:, : len(before)] = ids.new_tensor(before)
        every = torch.ones_like(ids) if shown is None else shown.long()
        place, length = every.cumsum(dim=1) - 1 + len(before), every.sum(dim=1) + len(before)
        row, column = every.nonzero(as_tuple=True)
        whole[row, place[row, column]] = ids[row, column]
        for number, token in enumerate(after):
            whole[rows, length + number] = token
        if shown is None:
            return whole, None, place
        columns = torch.arange(whole.shape[1], device=ids.device)
        return whole, (columns < length[:, None] + len(after)).long(), place.clamp(min=0)

    def _logits(self, hidden: Float[Tensor, "s D"]) -> Float[Tensor, "s V"]:
        for name in KINDS[self.config.model_type].head:
            hidden = getattr(self, name)(hidden)
        return hidden.float().index_fill(-1, self.banned, -torch.inf)


@cache
def class_of(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of transformers with the forward pass above, under its own name, which config.json repeats."""
    return type(kind.__name__, (MaskedLm, kind), {"__module__": kind.__module__})


def create(settings: ModelSection, vocabulary: int, mask_id: int, length: int) -> NoReturn:
    raise PipelineError("model.name: masked_lm is not made here: base.path must name a saved model")


def load(path: Path, device: torch.device | str = "cpu") -> nn.Module:
    """Open a saved model, or saved adapters together with the base that they name.

    Tensors of other heads, such as BERT's pooler, are left out.

    Raises:
        PipelineError: if the directory holds no model or an architecture that is not supported, or a tensor is missing
            or of another shape; for adapters, if the base is not the one that they were trained on.
    """
    if adapters.are_in(path):
        base = load(base_of_adapters(path), device)
        adapters.add_saved(base, path)
        return base.eval()
    check_tensors(path)
    tokenizer = load_tokenizer(path)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        config.__dict__.pop("auto_map", None)
        kind = class_of(AutoModelForMaskedLM._model_mapping[type(config)])
        model, found = kind.from_pretrained(  # type: ignore[attr-defined]
            path,
            config=config,
            device_map={"": torch.device(device)},
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError, StrictDataclassError, *MALFORMED) as error:
        raise PipelineError(f"cannot load the weights in '{path}': {str(error)[:300]}") from error
    if missing := sorted(found["missing_keys"]):
        raise PipelineError(f"'{path}': missing keys: {', '.join(missing[:3])}")
    chat = has_chat_template(path)
    banned = {mask_id(tokenizer)} if chat else {mask_id(tokenizer), *special_ids(tokenizer)}
    model.frame, model.limit = read_frame(path), read_sizes(path).max_position_embeddings
    head = tuple(KINDS[config.model_type].head)
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    model.without_adapters = [name for name in linear if name.partition(".")[0] in head]
    model.register_buffer("banned", torch.tensor(sorted(banned), device=device), persistent=False)
    _freeze_unused(model)
    model.eval()
    return cast(nn.Module, model)


def _freeze_unused(model: nn.Module) -> None:
    """Parameters without a gradient would stop DDP."""
    unused = KINDS[cast(MaskedLm, model).config.model_type].unused
    for name, part in model.named_modules():
        if unused and name.endswith(unused):
            part.requires_grad_(False)


def restrict(model: nn.Module, known: AbstractSet[int]) -> None:
    """Never predict an id outside `known`: published models have more rows in their vocabulary than tokens."""
    network = cast(MaskedLm, model)
    unused = set(range(network.config.vocab_size)) - known
    network.banned = torch.tensor(sorted(unused.union(network.banned.tolist())), device=network.banned.device)


def merge(model: nn.Module) -> None:
    """As `merging.merge`, which makes every parameter trainable."""
    merging.merge(model)
    _freeze_unused(model)


disable_progress_bar()
set_verbosity_error()  # `load` reports the same problems itself, on one line
PLUGIN = Model(
    create=create,
    load=load,
    save=adapters.save_model,
    recompute=recompute_layers,
    adapters=replace(adapters.PLUGIN, merge=merge),
    restrict=restrict,
    check=read_sizes,
)
