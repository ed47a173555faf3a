"""What a base model learns from: prompts and answers of the task, or of a file of one's own, as batches."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.errors import PipelineError
from pipeline.runtime.random_streams import Stream
from pipeline.settings.sections import Base
from pipeline.storage import parquet
from pipeline.tasks.base import Item, name_of, need_base_items
from pipeline.tasks.corpus import read_corpus
from pipeline.text.prompts import PromptFormat
from pipeline.text.tokenizer import PADDING, mask_id
from pipeline.training.replay_buffer import Batch, Replay

Rows = Sequence[tuple[str, Item]]
"""Each with its place, for errors."""


def read_rows(base: Base, split: Path) -> Rows:
    """The rows of `base.data`, or of the task's own split in a file of rule `prepare`."""
    if base.file:
        return read_corpus(Path(base.file))
    items = [Item(**row) for row in parquet.read_items(split, may_be_empty=True)]
    need_base_items(items)
    return [(name_of(number, "base", item), item) for number, item in enumerate(items)]


def replays(base: Base, rows: Rows, of_policy: PromptFormat) -> list[Replay]:
    """One corpus for each of `base.lengths`, with answers of that many tokens.

    Of an answer that starts partly revealed only the holes are learnt. Rows whose answer is longer, or that with their
    prompt are too long for the model, are left out; the log counts them.

    Raises:
        PipelineError: for a text outside the model's vocabulary, a start of another length than its answer, or if no
            row is left.
    """
    names, items = [name for name, _ in rows], [item for _, item in rows]
    prompts = of_policy.prompts_of_any_length([item.prompt for item in items], names)
    limit, made = of_policy.limit or math.inf, []
    for length in base.lengths or (of_policy.task.answer_length,):
        answers = of_policy.references([item.reference for item in items], names, length)
        found = zip(names, items, prompts, answers, strict=True)
        kept = [row for row in found if len(row[3]) <= length and len(row[2]) + len(row[3]) <= limit]
        if len(kept) < len(rows):
            most = f"more than {length} answer tokens, or {limit} with the prompt"
            print(f"{len(rows) - len(kept)} of {len(rows)} rows left out: {most}")
        if not kept:
            raise PipelineError(f"base.data: no row has an answer of up to {length} tokens that fits into the model")
        left = pad_sequence([row[2] for row in kept], True, PADDING, "left")
        right = pad_sequence([row[3] for row in kept], True, PADDING)
        starts = [_start(of_policy, name, item, answer) for name, item, _, answer in kept]
        start = pad_sequence(starts, True, PADDING)
        made.append(Replay.of_texts(left, right, mask_id(of_policy.tokenizer), start))
    return made


def _start(of_policy: PromptFormat, name: str, item: Item, answer: Int[Tensor, " L"]) -> Int[Tensor, " L"]:
    """The answer as it starts."""
    if not item.start:
        return torch.full_like(answer, mask_id(of_policy.tokenizer))
    (start,) = of_policy.starts([item.start], [name], len(answer))
    if len(start) != len(answer):
        raise PipelineError(f"the start of item {name} has {len(start)} tokens, but its answer {len(answer)}")
    return start


def batches(corpora: Sequence[Replay], base: Base, seed: int, blocks: int | None = None) -> Iterator[Batch]:
    """Update u learns answers of `lengths[u mod n]` tokens; each length goes through the corpus on its own.

    A model that sees blocks of `blocks` positions learns states that are revealed block by block.
    """
    updates, drawn = math.ceil(base.updates / len(corpora)), []
    for number, corpus in enumerate(corpora):
        in_blocks = replace(corpus, block_length=blocks, blocks_from_prompt=blocks is not None)
        drawn.append(in_blocks.batches(updates, base.batch_size, seed, Stream.BASE, number))
    return islice(chain.from_iterable(zip(*drawn, strict=True)), base.updates)
