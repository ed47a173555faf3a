"""Texts to token ids and back, as a checkpoint and a task ask for it: chat prompts, prefills, stop tokens.

A chat template is text of the checkpoint, rendered by transformers in jinja2's immutable sandbox; no code of it runs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from jinja2 import TemplateError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from pipeline.errors import PipelineError
from pipeline.tasks.base import Task, TaskSettings
from pipeline.text.tokenizer import CHAT_TEMPLATE, TOKENIZER_CONFIG, decode, encode, mask_id

STOP_TOKENS = ("<|eot_id|>", "<|endoftext|>", "<|im_end|>")
"""What ends an answer, besides the end-of-text that a checkpoint's configuration names."""


@dataclass(frozen=True)
class Chat:
    """How a checkpoint is spoken to.

    Attributes:
        template: renders messages to text.
        prefill: how the answer begins; part of the prompt for the model, part of the answer for the task.
        stops: ids of the tokens that end an answer.
        longest: how many tokens the model was made for, prompt and answer; None where its configuration is silent.
    """

    template: PreTrainedTokenizerFast
    prefill: str
    stops: frozenset[int]
    longest: int | None

    def text(self, message: str) -> str:
        """The user's message and the header of the answer."""
        messages = [{"role": "user", "content": message}]
        try:
            return str(self.template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise PipelineError(
                f"the checkpoint's chat template fails: {' '.join(str(error).split())[:200]}"
            ) from error


@dataclass(frozen=True)
class PromptFormat:
    """Prompts and answers of a task in the tokens of a policy; `chat` is None for an embedded model's alphabet."""

    tokenizer: Tokenizer
    task: Task[TaskSettings]
    chat: Chat | None

    def prompts(self, texts: Sequence[str], ids: Sequence[int], length: int) -> list[Int[Tensor, " P"]]:
        """Token ids of each prompt; those of a chat differ in length, and none is ever cut.

        Args:
            ids: numbers by which the items are named in errors.
            length: tokens of the answer.

        Raises:
            PipelineError: for a prompt that is too long for the model, or that holds [MASK].
        """
        if self.chat is None:
            return list(encode(self.tokenizer, texts))
        whole = [self.chat.text(text) + self.chat.prefill for text in texts]
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(whole, add_special_tokens=False)]
        mask, longest = mask_id(self.tokenizer), self.chat.longest
        for number, row in zip(ids, rows, strict=True):
            if mask in row:
                raise PipelineError(f"the prompt of item {number} holds the token {self.tokenizer.id_to_token(mask)}")
            if longest is not None and len(row) + length > longest:
                raise PipelineError(
                    f"the prompt of item {number} has {len(row)} tokens and its answer {length}, but the model takes"
                    f" {longest} in all: shorten the answer or leave the item out"
                )
        return [torch.tensor(row) for row in rows]

    def answers(self, tokens: Int[Tensor, "n L"]) -> list[str]:
        """Texts with the prefill, up to the first stop token; `Task.whole_text` keeps that and what follows it.

        Those of an embedded model up to the first `Task.end`.
        """
        if self.chat is None:
            return [self.task.shown(text) for text in decode(self.tokenizer, tokens)]
        rows = tokens.tolist()
        if not self.task.whole_text:
            rows = [row[: first_of(row, self.chat.stops)] for row in rows]
        texts = self.tokenizer.decode_batch(rows, skip_special_tokens=False)
        return [self.chat.prefill + text for text in texts]


def load_prompt_format(
    policy: Path, model: nn.Module, tokenizer: Tokenizer, task: Task[TaskSettings], prefill: str = ""
) -> PromptFormat:
    """How a task is put to the policy of a directory.

    Raises:
        PipelineError: for a chat task and a checkpoint without a chat template.
    """
    if not task.chat:
        return PromptFormat(tokenizer, task, None)
    settings = read_tokenizer_config(policy)
    template = _template(policy, settings)
    special = {name: _token(settings.get(name)) for name in ("bos_token", "eos_token")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special)
    config: Any = model.config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    named = [tokenizer.token_to_id(token) for token in (*STOP_TOKENS, special["eos_token"]) if token]
    stops = frozenset(token for token in (*ends, *named) if token is not None)
    return PromptFormat(tokenizer, task, Chat(fast, prefill, stops, getattr(config, "max_position_embeddings", None)))


def read_tokenizer_config(policy: Path) -> dict[str, Any]:
    """What a directory says about its tokenizer besides tokenizer.json; nothing where it says nothing."""
    path = policy / TOKENIZER_CONFIG
    try:
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise PipelineError(f"{path} is not JSON ({error})") from error
    return found


def first_of(row: Sequence[int], stops: frozenset[int]) -> int:
    """Where the first stop token stands; the length of the row where there is none."""
    return next((place for place, token in enumerate(row) if token in stops), len(row))


def _template(policy: Path, settings: dict[str, Any]) -> str:
    path, found = policy / CHAT_TEMPLATE, settings.get("chat_template")
    if path.is_file():
        found = path.read_text()
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    if not isinstance(found, str):
        raise PipelineError(
            f"'{policy}' has no chat template, in {TOKENIZER_CONFIG} or {CHAT_TEMPLATE}: this task's prompts are chat"
            " messages, so base.path must name a checkpoint that has one"
        )
    return found


def _token(value: Any) -> str | None:
    """A special token, which may be saved with its options."""
    return value.get("content") if isinstance(value, dict) else value
