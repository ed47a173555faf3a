"""The answers to all held-out prompts with their metrics, from one job or from several that each decode a shard.

Whole batches go to a shard, so a batch is composed alike, and computed alike, for any number of shards.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import cycle, product
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import PipelineError, users_code
from pipeline.evaluation.decoding import Decoder
from pipeline.settings.sections import Evaluate, Sampler
from pipeline.settings.validation import Section
from pipeline.storage import parquet
from pipeline.storage.provenance import hardware, provenance
from pipeline.tasks.base import Item, Task, TaskSettings, is_reserved

Splits = Mapping[str, Sequence[Item]]
"""The held-out items by the name of their split."""
Kind = tuple[str, Sampler, int]
"""(split, sampler, length): answers that are averaged together."""


class Answer(NamedTuple):
    """A row of schema `ANSWERS`; `item_id` is the item's place in its split."""

    split: str
    sampler: Sampler
    length: int
    item_id: int
    answer: str
    metrics: Mapping[str, float]
    hardware: str


def read_splits(paths: Sequence[Path]) -> Splits:
    """The items of files of rule `prepare`, of which only the first must have some."""
    rows = {path.stem: parquet.read_items(path, may_be_empty=path != paths[0]) for path in paths}
    return {split: [Item(**row) for row in rows[split]] for split in rows}


def kinds(splits: Splits, evaluate: Evaluate, task: Task[TaskSettings]) -> Iterator[Kind]:
    """What an evaluation decodes, in order."""
    with_items = [split for split, items in splits.items() if items]
    return product(with_items, evaluate.samplers, evaluate.lengths or (task.answer_length,))


def decode(decoder: Decoder, splits: Splits, title: str, *, shard: int = 0, shards: int = 1) -> list[Answer]:
    """The answers of one shard. The batches of all kinds are numbered through and dealt out in turn."""
    evaluate, task, done = decoder.context.evaluate, decoder.context.task, []
    mine = cycle([number == shard for number in range(shards)])
    with closing(decoder.score) as score:
        for split, sampler, length in kinds(splits, evaluate, task):
            items, bar = splits[split], f"{title} {split} {sampler} {length}" if shard == 0 else ""
            texts = decoder.answers(sampler, items, length, bar, mine)
            metrics = score([items[id_] for id_ in texts], list(texts.values()), list(texts))
            for (id_, text), scores in zip(texts.items(), metrics, strict=True):
                done.append(Answer(split, sampler, length, id_, text, scores, hardware()))
    return done


def judged(answers: Sequence[Answer], items: Sequence[Item], task: Task[TaskSettings]) -> list[Answer]:
    """The answers to all items of a split, with the metrics of `Task.judge` before those of `Task.score`.

    Raises:
        PipelineError: if the judge fails, or its metrics are not finite numbers, the same ones for each answer.
    """
    if task.judge is None:
        return list(answers)
    with users_code("the task's judge"):
        found = task.judge(items, [answer.answer for answer in answers])
        more = [{str(name): float(value) for name, value in metrics.items()} for metrics in found]
    sound = all(metrics.keys() == more[0].keys() and all(map(math.isfinite, metrics.values())) for metrics in more)
    if len(more) != len(answers) or not sound:
        raise PipelineError("the task's judge must give every answer the same metrics, all of them finite numbers")
    if taken := [name for name in (more[0] if more else ()) if is_reserved(name)]:
        raise PipelineError(f"the task's judge has a metric called {taken[0]!r}, a name of the report itself")
    pairs = zip(answers, more, strict=True)
    return [answer._replace(metrics={**metrics, **answer.metrics}) for answer, metrics in pairs]


def write_shard(path: Path, answers: Sequence[Answer], settings: Section) -> None:
    """Write the answers of one shard."""
    columns: dict[str, parquet.Column] = {
        name: [getattr(answer, name) for answer in answers] for name in parquet.ANSWERS.names
    }
    columns["metrics"] = [list(answer.metrics.items()) for answer in answers]
    parquet.write(path, columns, parquet.ANSWERS, provenance(settings))


def read_shards(paths: Sequence[Path]) -> list[Answer]:
    """The answers of all shards."""
    rows = parquet.read(paths, parquet.ANSWERS, may_be_empty=True).to_pylist()
    return [Answer(**{**row, "metrics": dict(row["metrics"])}) for row in rows]


def in_order(answers: Iterable[Answer], splits: Splits, wanted: Iterable[Kind]) -> dict[Kind, list[Answer]]:
    """The answers of each kind in the order of their items.

    Raises:
        PipelineError: if an item has no answer or two, or other metrics than the first.
    """
    found: dict[Kind, list[Answer]] = {kind: [] for kind in wanted}
    for answer in sorted(answers, key=lambda answer: answer.item_id):
        found.setdefault((answer.split, answer.sampler, answer.length), []).append(answer)
    for (split, sampler, length), rows in found.items():
        where = f"the {sampler} answers of {length} tokens to split '{split}'"
        if [row.item_id for row in rows] != list(range(len(splits.get(split, ())))):
            raise PipelineError(f"{where} are not one for each item: delete the round's answers and run again")
        if odd := [row for row in rows if row.metrics.keys() != rows[0].metrics.keys()]:
            names = f"{sorted(odd[0].metrics)}, not {sorted(rows[0].metrics)} as of the first one"
            raise PipelineError(f"{where}: the score of item {odd[0].item_id} has {names}")
    return found
