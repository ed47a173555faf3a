"""The character-level tokenizer of embedded models, and batches of token rows without padding."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.text.special_tokens import open_tokenizer

MASK_TOKEN = "[MASK]"
MASK_TOKENS = (MASK_TOKEN, "<|mdm_mask|>", "<|mask|>", "<mask>", "<|MASK|>", "<MASK>")
"""The mask token of embedded models and BERT, of LLaDA, of its successors and Dream, of RoBERTa, and of SDAR."""

PADDING = -1
"""Pads the shorter prompts of a training batch on the left and the shorter answers on the right; the model never sees
it, and since it is not [MASK], nothing predicts it."""


def character_tokenizer(alphabet: str) -> Tokenizer:
    """One token per character of `alphabet`, then [MASK]."""
    vocabulary = {token: index for index, token in enumerate([*alphabet, MASK_TOKEN])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=MASK_TOKEN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([MASK_TOKEN])
    return tokenizer


def mask_id(tokenizer: Tokenizer) -> int:
    """The id of [MASK]."""
    return next(index for token in MASK_TOKENS if (index := tokenizer.token_to_id(token)) is not None)


def unknown_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """[MASK], and what stands for characters outside the vocabulary: no text may hold them."""
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or MASK_TOKEN)
    return frozenset({mask_id(tokenizer)} if unknown is None else {mask_id(tokenizer), unknown})


def token_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Every id that is a token; a model's vocabulary may have unused rows besides."""
    return frozenset(tokenizer.get_vocab().values())


def token_rows(tokenizer: Tokenizer, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Token ids of texts. PipelineError for one that holds [MASK] or is outside the vocabulary; `names` as in "the
    prompt of item 3"."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    unknown = unknown_ids(tokenizer)
    for name, text, row in zip(names, texts, rows, strict=True):
        if not unknown.isdisjoint(row):
            raise PipelineError(f"{name} is outside the model's vocabulary: {text[:80]!r}")
    return rows


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Int[Tensor, "n T"]:
    """`token_rows` of texts that have one length, as a tensor."""
    return torch.tensor(token_rows(tokenizer, texts, ["a text"] * len(texts)), dtype=torch.long)


def buckets(lengths: Sequence[tuple[int, int]], size: int) -> list[list[int]]:
    """Indices of rows in batches of up to `size` that need no padding: the prompts of each have one length and the
    answers too, shortest first. `lengths` are those of a row's prompt and answer."""
    shortest_first = sorted(range(len(lengths)), key=lengths.__getitem__)
    rows = [list(same) for _, same in groupby(shortest_first, key=lengths.__getitem__)]
    return [indices[first : first + size] for indices in rows for first in range(0, len(indices), size)]


def load_tokenizer(policy: Path) -> Tokenizer:
    """The tokenizer in a policy directory, as `open_tokenizer`; PipelineError if it has no mask token, too."""
    tokenizer = open_tokenizer(policy)
    if all(tokenizer.token_to_id(token) is None for token in MASK_TOKENS):
        raise PipelineError(f"{policy / 'tokenizer.json'} has no {' or '.join(MASK_TOKENS)}")
    return tokenizer
