"""A byte-level BPE tokenizer from vocab.json and merges.txt, for checkpoints of Qwen's line without tokenizer.json."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pipeline.errors import PipelineError

VOCABULARY, MERGES = "vocab.json", "merges.txt"
CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer")
"""Names in tokenizer_config.json of tokenizers that split a text by `PIECES`."""
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's: contractions, words, single digits, punctuation, white space."""


def is_saved_in(policy: Path) -> bool:
    return (policy / VOCABULARY).is_file() and (policy / MERGES).is_file()


def byte_level_tokenizer(policy: Path, settings: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a directory whose tokenizer_config.json holds `settings`, special tokens with their own ids.

    Raises:
        PipelineError: for another kind of tokenizer, a damaged file, or a special token that has another id.
    """
    if settings.get("tokenizer_class") not in CLASSES:
        known = ", ".join(CLASSES)
        raise PipelineError(f"'{policy}' has no tokenizer.json, and its tokenizer_class is none of {known}")
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(policy / VOCABULARY), str(policy / MERGES)))
        added = {int(number): entry for number, entry in settings.get("added_tokens_decoder", {}).items()}
        tokens = [AddedToken(**{"special": False, **entry}) for _, entry in sorted(added.items())]
    except Exception as error:  # the library raises nothing more specific
        raise PipelineError(f"'{policy}' has no tokenizer: {str(error)[:200]}") from error
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(tokens)
    for number, content in ((number, entry["content"]) for number, entry in sorted(added.items())):
        if (found := tokenizer.token_to_id(content)) != number:
            raise PipelineError(f"'{policy}': {content} is token {number} in tokenizer_config.json, but {found} here")
    return tokenizer
