"""Tokens of text: the character-level tokenizer of embedded models, and padding-free batches of token rows."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from pipeline.errors import PipelineError

MASK_TOKEN = "[MASK]"
MASK_TOKENS = (MASK_TOKEN, "<|mdm_mask|>", "<|mask|>")
"""Of embedded models, of LLaDA, and of its successors."""

PADDING = -1
"""Stands left of the prompts that are shorter than others of a training batch; the model never sees it."""

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
    """Every id that stands for a token; a model's vocabulary may have more."""
    return frozenset(tokenizer.get_vocab().values())


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Int[Tensor, "n T"]:
    """Token ids of equally long texts.

    Raises:
        PipelineError: for texts of different lengths, or a character that the vocabulary lacks.
    """
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    mask = mask_id(tokenizer)
    for text, row in zip(texts, rows, strict=True):
        if len(row) != len(rows[0]):
            raise PipelineError(f"text '{text}' has {len(row)} tokens, not {len(rows[0])} like '{texts[0]}'")
        if mask in row:
            raise PipelineError(f"text '{text}' has a character outside the model's vocabulary")
    return torch.tensor(rows)


def buckets(lengths: Sequence[int], size: int) -> list[list[int]]:
    """The places of rows of one length, up to `size` at a time, the shortest first: batches that need no padding."""
    of_length: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        of_length.setdefault(length, []).append(place)
    rows = (of_length[length] for length in sorted(of_length))
    return [places[first : first + size] for places in rows for first in range(0, len(places), size)]


def decode(tokenizer: Tokenizer, tokens: Int[Tensor, "n L"]) -> list[str]:
    """Texts of token rows."""
    return tokenizer.decode_batch(tokens.tolist(), skip_special_tokens=False)


def load_tokenizer(policy: Path) -> Tokenizer:
    """The tokenizer saved beside a model."""
    path = policy / "tokenizer.json"
    if not path.is_file():
        raise PipelineError(f"{path} is missing: '{policy}' is not a model directory of this project")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise PipelineError(f"{path} is not a tokenizer: {error}") from error
    if all(tokenizer.token_to_id(token) is None for token in MASK_TOKENS):
        raise PipelineError(f"{path} has no {' or '.join(MASK_TOKENS)}")
    return tokenizer
