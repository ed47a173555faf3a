"""The network of every family: blocks of transformers' own, the family's attention, and a head for masked tokens.

With weights in bfloat16 the rotary embedding, the head and the log-softmax are still computed in fp32, at least as
precise as the reference. On a GPU the stages let fp32 matrix products run in TF32, which keeps bfloat16 operands as
they are.
"""

import importlib
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pipeline.models.base import Output, log_prob_in_chunks
from pipeline.models.block_cache import BlockCache, LayerCache
from pipeline.models.family import Family

ATTENTION = "masked_diffusion"


def body_class(family: Family, ending: str) -> Any:
    """A class of the family's body in transformers: `Config`, `Model` or `DecoderLayer`."""
    package = family.body.lower()
    module = f"configuration_{package}" if ending == "Config" else f"modeling_{package}"
    return getattr(importlib.import_module(f"transformers.models.{package}.{module}"), family.body + ending)


class RotaryEmbedding(LlamaRotaryEmbedding):
    """cos and sin in fp32 whatever the weights are, so that queries and keys are rotated in fp32.

    transformers recognises by the end of the class name that it must compute the frequencies on loading.
    """

    def forward(self, x: Tensor, position_ids: Int[Tensor, "n T"]) -> tuple[Tensor, Tensor]:
        """The angles are products of numbers, where transformers takes a matrix product, which TF32 would round."""
        angles = position_ids[..., None].float() * self.inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling


class Head(nn.Linear):
    """Logits in fp32: those of a large vocabulary lose two digits in bfloat16."""

    def forward(self, hidden: Tensor, weight: Tensor | None = None) -> Tensor:
        """`weight` is the head's own in fp32: 2 GB for LLaDA-8B, converted once for all pieces of a pass."""
        return nn.functional.linear(hidden.float(), self.weight.float() if weight is None else weight)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    cache: LayerCache | None = None,
    **options: Any,
) -> Any:
    """Attention to all that the mask shows. Queries and keys come in fp32, rotated, and take the type of the values."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    if cache is not None:
        key, value = cache.update(key, value)
    return sdpa_attention_forward(module, query, key, value, mask, **{**options, "is_causal": False})


class MaskedDiffusionModel(PreTrainedModel):
    """The network of one family; `model_class` makes the class of each.

    Attributes:
        unused: ids that are no token, see `restrict`.
    """

    family: ClassVar[Family]
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    model: Any
    config: Any
    unused: Tensor | None

    def __init__(self, config: Any):
        config._attn_implementation = ATTENTION
        super().__init__(config)
        self.model = body_class(self.family, "Model")(config)
        self.model.rotary_emb = RotaryEmbedding(config)
        self.lm_head = Head(config.hidden_size, config.vocab_size, bias=False)
        self.register_buffer("unused", None, persistent=False)
        self.post_init()

    @property
    def block_length(self) -> int | None:
        """B of `base.blocks_of`."""
        found: int | None = self.config.block_size if self.family.block_length else None
        return found

    @property
    def shifted(self) -> bool:
        """Whether token i is predicted at position i - 1."""
        return self.family.shifted

    def forward(
        self,
        input_ids: Int[Tensor, "n T"],
        attention_mask: Int[Tensor, "n T"] | None = None,
        select: Bool[Tensor, "n T"] | None = None,
        tokens: Int[Tensor, "s K"] | None = None,
        cache: BlockCache | None = None,
    ) -> Output:
        """Logits of the clean token at every position, or at the selected ones only.

        Args:
            attention_mask: 0 at padding, which may be on either side. A mask without a 0 is dropped, since the fastest
                kernels take no mask. The check waits for the device, so pass None where nothing is padded.
            select: positions to predict. The head runs on these alone, and `logits` has the shape [number selected, V],
                in row-major order, instead of [n, T, V].
            tokens: K tokens for each selected position. Their log-probabilities are returned instead of logits, and at
                most `CHUNK` logits exist at once, also in the backward pass.
            cache: `input_ids` and `select` are those of `cache.positions` alone. An empty one is filled; with a filled
                one, padding is as in the pass that filled it.

        The logits of [MASK], which is never a clean token, and of ids that are no token (see `restrict`) are -inf.
        """
        if attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None
        hidden = self._hidden(input_ids, attention_mask, cache)
        if self.shifted:
            hidden = hidden.gather(1, self._sources(input_ids, attention_mask)[..., None].expand_as(hidden))
        if select is not None:
            hidden = hidden[select]
        head = self.lm_head.weight.float()
        if tokens is None:
            return Output(logits=self._logits(hidden, head))
        return Output(log_prob=log_prob_in_chunks(self._logits, hidden, tokens, self.config.vocab_size, head))

    def _hidden(
        self, input_ids: Int[Tensor, "n S"], attention_mask: Int[Tensor, "n S"] | None, cache: BlockCache | None
    ) -> Float[Tensor, "n S D"]:
        """The input of the head, after the last norm."""
        shown = None if attention_mask is None else attention_mask.bool()
        first = 0
        if cache is not None:
            first = cache.positions.start
            if not cache.filled:
                cache.fill(len(self.model.layers), shown)
            shown = cache.shown
        mask = self._mask(first, input_ids.shape[1], shown)
        hidden = self.model.embed_tokens(input_ids)
        positions = torch.arange(first, first + input_ids.shape[1], device=hidden.device)
        rotary = self.model.rotary_emb(hidden, positions[None])
        for number, layer in enumerate(self.model.layers):
            kept = {} if cache is None else {"cache": cache.layers[number]}
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, **kept)
        normed: Tensor = self.model.norm(hidden)
        return normed

    def _mask(self, first: int, count: int, shown: Bool[Tensor, "n T"] | None) -> Bool[Tensor, "#n 1 S T"] | None:
        """The attention mask of `count` positions from `first` on; None if each sees everything. A row's blocks are
        counted from its first token that is no padding. Positions behind the `count` take no part in the pass."""
        size, last = self.block_length, first + count - 1
        if size is None:
            return None if shown is None else shown[:, None, None].expand(-1, -1, count, -1)
        if shown is None and first // size == last // size:
            return None
        if shown is None:
            place = torch.arange(last + 1, device=self.device)[None]
        else:
            place = (shown.long().cumsum(dim=1) - 1).clamp(min=0)[:, : last + 1]
        block = place // size
        seen = block[:, None, None] <= block[:, None, first:, None]
        return seen if shown is None else seen & shown[:, None, None, : last + 1]

    def _sources(self, input_ids: Int[Tensor, "n S"], attention_mask: Int[Tensor, "n S"] | None) -> Int[Tensor, "n S"]:
        """Where each token is predicted: one position before, or at its own if it is the first of its row."""
        before = torch.ones_like(input_ids)
        if attention_mask is not None:
            before[:, 1:] = attention_mask[:, :-1]
        before[:, 0] = 0
        return torch.arange(input_ids.shape[1], device=input_ids.device) - before

    def _logits(self, hidden: Float[Tensor, "*s D"], head: Float[Tensor, "V D"]) -> Float[Tensor, "*s V"]:
        logits: Tensor = self.lm_head(hidden, head)
        logits[..., self.config.mask_token_id] = -torch.inf
        if self.unused is not None:
            logits.index_fill_(-1, self.unused, -torch.inf)
        return logits


AttentionInterface.register(ATTENTION, attention)
