"""Converts prompts and answers between text and token ids: chat templates, prefills, stop tokens.

transformers renders a checkpoint's chat template in jinja2's immutable sandbox, so it cannot run code; a process with
limits keeps it from taking time or memory without end.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from pipeline.errors import PipelineError
from pipeline.runtime.bounded import BoundsError, bounded
from pipeline.tasks.base import Task, TaskSettings
from pipeline.text.special_tokens import CHAT_TEMPLATE, TOKENIZER_CONFIG, read_tokenizer_config
from pipeline.text.tokenizer import mask_id, token_rows

STOP_TOKENS = ("<|eot_id|>", "<|endoftext|>", "<|im_end|>", "<|dlm_pad|>")
"""Tokens that end an answer, besides the end-of-text token in a checkpoint's configuration."""
TEMPLATE_SECONDS, TEMPLATE_MEMORY = 10, 2**30
"""Limits for rendering the prompts of a split or a batch; thousands of them take a second."""


@dataclass(frozen=True)
class ChatFormat:
    """The chat-format settings of a checkpoint.

    Attributes:
        template: the tokenizer that renders messages to text.
        prefill: the beginning of every answer; for the model it is part of the prompt, for the task part of the answer.
        stops: ids of the tokens that end an answer.
        ends: the token that ends an answer, and the one that fills it up after its end.
    """

    template: PreTrainedTokenizerFast
    prefill: str
    stops: frozenset[int]
    ends: tuple[int, int] | None

    def texts(self, messages: Sequence[str]) -> list[str]:
        """Each user's message in the chat template, up to where the answer begins.

        Raises:
            PipelineError: if the template fails, or takes more than `TEMPLATE_SECONDS` or `TEMPLATE_MEMORY`.
        """

        if not messages:
            return []

        def render() -> list[str]:
            chats = [[{"role": "user", "content": message}] for message in messages]
            return list(self.template.apply_chat_template(chats, tokenize=False, add_generation_prompt=True))

        try:
            found: list[str] = bounded(render, TEMPLATE_SECONDS, TEMPLATE_MEMORY)
        except BoundsError as error:
            raise PipelineError(f"the checkpoint's chat template fails: {' '.join(str(error).split())}") from error
        return found


@dataclass(frozen=True)
class PromptFormat:
    """Converts a task's prompts and answers to and from a policy's tokens.

    Attributes:
        chat: None for a task without chat messages.
        limit: the most tokens of prompt and answer that the model takes; None if that is not known.
    """

    tokenizer: Tokenizer
    task: Task[TaskSettings]
    chat: ChatFormat | None
    limit: int | None = None

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer; none where all answers have one length."""
        if self.chat is not None:
            return self.chat.stops
        end = self.tokenizer.token_to_id(self.task.end)
        return frozenset() if end is None else frozenset({end})

    def prompts(self, texts: Sequence[str], ids: Sequence[object], length: int) -> list[Int[Tensor, " P"]]:
        """Token ids of each prompt; chat prompts differ in length, others must not.

        A prompt that is too long for the model with an answer of `length` tokens is a PipelineError, never truncated;
        so is one that contains [MASK]. `ids` name the items in errors.
        """
        rows = self.prompts_of_any_length(texts, ids)
        for number, row in zip(ids, rows, strict=True):
            if self.chat is None and len(row) != len(rows[0]):
                sizes = f"the prompt of item {number} has {len(row)} tokens, that of item {ids[0]} {len(rows[0])}"
                raise PipelineError(f"{sizes}: without a chat template prompts must have one length")
            if self.limit is not None and len(row) + length > self.limit:
                sizes = f"the prompt of item {number} has {len(row)} tokens and its answer {length}"
                advice = "shorten the answer or leave the item out"
                raise PipelineError(f"{sizes}, but the model takes {self.limit} in all: {advice}")
        return rows

    def prompts_of_any_length(self, texts: Sequence[str], ids: Sequence[object]) -> list[Int[Tensor, " P"]]:
        """As `prompts`, but prompts may be too long for the model and differ in length."""
        if self.chat is None:
            return [
                torch.tensor(row, dtype=torch.long) for row in token_rows(self.tokenizer, texts, _named("prompt", ids))
            ]
        texts = [text + self.chat.prefill for text in self.chat.texts(texts)]
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        mask = mask_id(self.tokenizer)
        for number, row in zip(ids, rows, strict=True):
            if not row:
                raise PipelineError(f"the prompt of item {number} has no tokens in the checkpoint's chat template")
            if mask in row:
                raise PipelineError(f"the prompt of item {number} holds the token {self.tokenizer.id_to_token(mask)}")
        return [torch.tensor(row) for row in rows]

    def starts(self, texts: Sequence[str], ids: Sequence[object], length: int) -> list[Int[Tensor, " L"]]:
        """Token ids of each answer as it starts: [MASK] at the holes of `Item.start`; `length` of them if that is "".

        What stands between holes is tokenized piece by piece. PipelineError for a start that is longer than the task's
        answers or has a character outside the vocabulary. `ids` name the items in errors.
        """
        mask, hole, most = mask_id(self.tokenizer), self.task.hole, self.task.answer_length
        rows = []
        for number, text in zip(ids, texts, strict=True):
            row = [mask] * length if not text else []
            for piece in re.split(f"({re.escape(hole)})", text) if text else ():
                row += (
                    [mask] if piece == hole else token_rows(self.tokenizer, [piece], [f"the start of item {number}"])[0]
                )
            if text and len(row) > most:
                raise PipelineError(
                    f"the start of item {number} has {len(row)} tokens, but answers have {most} at most"
                )
            rows.append(torch.tensor(row))
        return rows

    def references(self, texts: Sequence[str], ids: Sequence[object], length: int) -> list[Int[Tensor, " L"]]:
        """Token ids of each answer as a policy learns to write it in `length` tokens: with its end, and filled up; an
        answer of a task without ends has its own length. Those that are longer are not cut.

        Raises:
            PipelineError: for an answer with [MASK] or a token outside the vocabulary; `ids` name them.
        """
        if self.chat is None:
            texts = [self.task.filled(text, length) for text in texts]
        rows = token_rows(self.tokenizer, texts, _named("answer", ids))
        return [torch.tensor(row + self._ending(length - len(row)), dtype=torch.long) for row in rows]

    def _ending(self, places: int) -> list[int]:
        """The tokens that end a chat answer and fill `places`; at least its end. None for other tasks."""
        if self.chat is None or self.chat.ends is None:
            return []
        end, filler = self.chat.ends
        return [end] + [filler] * (places - 1)

    def answers(self, tokens: Int[Tensor, "n L"]) -> list[str]:
        """The text of each answer.

        A chat answer begins with the prefill and ends before its first stop token, or is kept whole if
        `Task.whole_text`; an embedded model's answer ends before the first `Task.end`.
        """
        rows = tokens.tolist()
        if self.chat is not None and not self.task.whole_text:
            rows = [list(takewhile(lambda token: token not in self.end_ids, row)) for row in rows]
        texts = self.tokenizer.decode_batch(rows, skip_special_tokens=False)
        return [self.task.shown(text) if self.chat is None else self.chat.prefill + text for text in texts]


def load_prompt_format(
    policy: Path, model: nn.Module, tokenizer: Tokenizer, task: Task[TaskSettings], prefill: str = ""
) -> PromptFormat:
    """The prompt format of a task for an open policy; see `prompt_format`."""
    return prompt_format(policy, getattr(model, "config", None) if task.chat else None, tokenizer, task, prefill)


def prompt_format(
    policy: Path, config: Any, tokenizer: Tokenizer, task: Task[TaskSettings], prefill: str = ""
) -> PromptFormat:
    """The prompt format of a task for a policy of which `config` is known: its end-of-text tokens and longest input.

    Raises:
        PipelineError: for a chat task without a chat template.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not task.chat:
        return PromptFormat(tokenizer, task, None, limit)
    settings = read_tokenizer_config(policy)
    template = _template(policy, settings)
    special = {name: _token(settings.get(name)) for name in ("bos_token", "eos_token")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special)
    eos = getattr(config, "eos_token_id", None)
    eos = eos if isinstance(eos, list) else [eos]
    fillers = [token for token in (tokenizer.token_to_id(special["eos_token"] or ""), *eos) if token is not None]
    stops = {token: tokenizer.token_to_id(token) for token in STOP_TOKENS}
    closing = [number for token, number in stops.items() if token in template and number is not None]
    chat = ChatFormat(
        template=fast,
        prefill=prefill,
        stops=frozenset([*fillers, *stops.values()]) - {None},
        ends=([*closing, *fillers][0], fillers[0]) if fillers else None,
    )
    return PromptFormat(tokenizer, task, chat, limit)


def _named(what: str, ids: Sequence[object]) -> list[str]:
    return [f"the {what} of item {number}" for number in ids]


def _template(policy: Path, settings: dict[str, object]) -> str:
    path = policy / CHAT_TEMPLATE
    try:
        found = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    except (OSError, ValueError) as error:
        raise PipelineError(f"cannot read '{path}': {error}") from error
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict) and entry.get("name") == "default"]
        found = named[0].get("template") if named else None
    if not isinstance(found, str):
        missing = f"'{policy}' has no chat template in {TOKENIZER_CONFIG} or {CHAT_TEMPLATE}"
        raise PipelineError(
            f"{missing}: base.path must name a checkpoint with one, for this task asks in chat messages"
        )
    return found


def _token(value: object) -> str | None:
    """A special token, which may be saved as a mapping with its options."""
    token = value.get("content") if isinstance(value, dict) else value
    return token if isinstance(token, str) else None
