"""The special tokens that a tokenizer puts around a text, such as [CLS] … [SEP] or <s> … </s>. Without PyTorch."""

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from pipeline.errors import PipelineError
from pipeline.storage.model_files import read_optional
from pipeline.text.byte_level import byte_level_tokenizer, is_saved_in

TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


class Frame(NamedTuple):
    """The ids before and after a text."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return len(self.before) + len(self.after)


def frame_of(tokenizer: Tokenizer) -> Frame:
    """What the post-processor in tokenizer.json adds to a single text."""
    for token in sorted(tokenizer.get_vocab(with_added_tokens=False)):
        bare = tokenizer.encode(token, add_special_tokens=False).ids
        whole = tokenizer.encode(token).ids
        if bare:
            starts = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
            if (first := next(starts, None)) is not None:
                return Frame(tuple(whole[:first]), tuple(whole[first + len(bare) :]))
    return Frame()


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that are marked as special, which no text contains."""
    return frozenset(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)


def read_tokenizer_config(policy: Path) -> dict[str, object]:
    """The contents of a policy's tokenizer_config.json; empty if there is no such file."""
    return read_optional(policy / TOKENIZER_CONFIG)


def has_chat_template(policy: Path) -> bool:
    return (policy / CHAT_TEMPLATE).is_file() or bool(read_tokenizer_config(policy).get("chat_template"))


def open_tokenizer(policy: Path) -> Tokenizer:
    """The tokenizer in a policy directory, without the truncation and padding that its file may ask for.

    Raises:
        PipelineError: if it is missing or damaged.
    """
    path = policy / TOKENIZER
    if not path.is_file() and is_saved_in(policy):
        return byte_level_tokenizer(policy, read_tokenizer_config(policy))
    if not path.is_file():
        raise PipelineError(f"{path} is missing: '{policy}' is not a model directory of this project")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise PipelineError(f"{path} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_frame(policy: Path) -> Frame:
    """The special tokens around a policy's texts: none if its chat template writes them, or no tokenizer is there."""
    if has_chat_template(policy) or not (policy / TOKENIZER).is_file():
        return Frame()
    return frame_of(open_tokenizer(policy))
