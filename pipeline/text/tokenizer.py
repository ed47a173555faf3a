"""The character-level tokenizer of embedded models, and batches of token rows without padding."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from pipeline.errors import PipelineError

MASK_TOKEN = "[MASK]"
MASK_TOKENS = (MASK_TOKEN, "<|mdm_mask|>", "<|mask|>")
"""The mask token of embedded models, of LLaDA, and of its successors."""

PADDING = -1
"""Pads the shorter prompts of a training batch on the left; the model never sees it."""

TOKENIZER_CONFIG, CHAT_TEMPLATE = "tokenizer_config.json", "chat_template.jinja"


def character_tokenizer(alphabet: str) -> Tokenizer:
    """One token per character of `alphabet`, then [MASK]."""
    vocabulary = {token: index for index, token in enumerate([*alphabet, MASK_TOKEN])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=MASK_TOKEN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([MASK_TOKEN])
    return tokenizer


def mask_id(tokenizer: Tokenizer) -> int:
    """The id of [MASK]."""
    return next(index for token in MASK_TOKENS if (index := tokenizer.token_to_id(token)) is not None)


def token_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Every id that is a token; a model's vocabulary may have unused rows besides."""
    return frozenset(tokenizer.get_vocab().values())


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Int[Tensor, "n T"]:
    """Token ids of texts. PipelineError if their lengths differ or a character is not in the vocabulary."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    mask = mask_id(tokenizer)
    for text, row in zip(texts, rows, strict=True):
        if len(row) != len(rows[0]):
            raise PipelineError(f"text '{text}' has {len(row)} tokens, not {len(rows[0])} like '{texts[0]}'")
        if mask in row:
            raise PipelineError(f"text '{text}' has a character outside the model's vocabulary")
    return torch.tensor(rows)


def buckets(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices of rows in batches of up to `size` that need no padding: each has rows of one length, shortest first."""
    shortest_first = sorted(range(len(lengths)), key=lengths.__getitem__)
    rows = [list(same) for _, same in groupby(shortest_first, key=lengths.__getitem__)]
    return [indices[first : first + size] for indices in rows for first in range(0, len(indices), size)]


def load_tokenizer(policy: Path) -> Tokenizer:
    """The tokenizer in a policy directory, without the truncation and padding that its file may ask for.

    Raises:
        PipelineError: if it is missing or damaged, or has no mask token.
    """
    path = policy / "tokenizer.json"
    if not path.is_file():
        raise PipelineError(f"{path} is missing: '{policy}' is not a model directory of this project")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise PipelineError(f"{path} is not a tokenizer: {error}") from error
    if all(tokenizer.token_to_id(token) is None for token in MASK_TOKENS):
        raise PipelineError(f"{path} has no {' or '.join(MASK_TOKENS)}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
