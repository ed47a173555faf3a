"""Rule `base`: pre-train the base model with the masked-diffusion objective, install an exact one, or import one."""

import math
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from types import SimpleNamespace

import pyarrow as pa
import torch
from tokenizers import Tokenizer
from torch import nn

from pipeline.algorithms.weighted_cross_entropy import matched
from pipeline.ctmc.exact import posteriors
from pipeline.errors import PipelineError
from pipeline.models.policy_directory import load_policy, located, merged, rounded, save_memory, save_policy
from pipeline.plugins import load, load_task
from pipeline.runtime.distributed import gather_trained, is_main_process, spread
from pipeline.runtime.random_streams import Stream, seed_torch
from pipeline.stages import main
from pipeline.storage import parquet as records
from pipeline.storage.atomic_files import digest, discard, write_json
from pipeline.storage.provenance import plain_json
from pipeline.text.tokenizer import character_tokenizer, encode, mask_id
from pipeline.training.adamw import AdamW
from pipeline.training.loop import Progress, fit
from pipeline.training.replay_buffer import Batch, Replay


def run(args: Namespace) -> None:
    settings = args.settings
    losses: list[float] = []
    source = located(settings.base.path) if settings.base.path else None
    if source:
        model, tokenizer, _ = load_policy(source, settings)
        rounded(merged(model, settings), settings.model.dtype)
    else:
        tokenizer = character_tokenizer(load_task(settings.task).characters(settings.base.lengths or ()))
        if settings.base.exact:
            model = installed(settings, tokenizer)
        else:
            model, losses = pretrain(args, tokenizer)
    gather_trained(model)
    if is_main_process():
        save_policy(args.out, model, tokenizer, settings, source)
        write_json(args.summary, {"losses": losses, "parameters": sum(p.numel() for p in model.parameters())})
        discard(args.progress)


def fresh(settings: SimpleNamespace, tokenizer: Tokenizer) -> nn.Module:
    seed_torch(settings.seed, Stream.INITIALIZATION)
    create, length = load("model", settings.model.name).create, load_task(settings.task).answer_length
    model: nn.Module = create(settings.model, tokenizer.get_vocab_size(), mask_id(tokenizer), length)
    return rounded(model, settings.model.dtype)


def installed(settings: SimpleNamespace, tokenizer: Tokenizer) -> nn.Module:
    """A model with the posteriors of the task's own joint."""
    plugin, problem = load("model", settings.model.name), load_task(settings.task).enumerated
    if plugin.install is None:
        raise PipelineError(f"base.exact: model '{settings.model.name}' cannot hold a given law; see models/tabular.py")
    model, values = fresh(settings, tokenizer), encode(tokenizer, [problem.values])[0]
    plugin.install(model, values, posteriors(torch.from_numpy(problem.base).log()))
    return model


def pretrain(args: Namespace, tokenizer: Tokenizer) -> tuple[nn.Module, list[float]]:
    settings, items = args.settings, records.read([args.items], records.ITEMS)
    model = fresh(settings, tokenizer)
    save_memory(model, settings.base.gradient_checkpointing, settings)
    spread(model, args.sharding == "full")
    optimizer = AdamW(model, settings.base)
    base = settings.base
    losses = fit(
        model,
        optimizer,
        batches(items, settings, tokenizer),
        partial(matched, mask_id=mask_id(tokenizer)),
        lambda number: base.lr * min(1.0, (number + 1) / max(1, base.warmup)) * (1 - number / base.updates),
        base,
        Progress(args.progress, digest(plain_json(settings), args.code, args.items)),
        updates=base.updates,
        title="base",
    )
    return model, losses


def batches(items: pa.Table, settings: SimpleNamespace, tokenizer: Tokenizer) -> Iterator[Batch]:
    """Update u learns answers of `lengths[u mod n]` tokens; for each length the corpus is drawn from on its own."""
    base, task = settings.base, load_task(settings.task)
    prompt, answers = encode(tokenizer, items["prompt"].to_pylist()), items["reference"].to_pylist()
    lengths = base.lengths or (task.answer_length,)
    drawn = []
    for number, length in enumerate(lengths):
        filled = encode(tokenizer, [task.filled(answer, length) for answer in answers])
        replay, updates = Replay.of_texts(prompt, filled, mask_id(tokenizer)), math.ceil(base.updates / len(lengths))
        drawn.append(replay.batches(updates, base.batch_size, settings.seed, Stream.BASE, number))
    return islice(chain.from_iterable(zip(*drawn, strict=True)), base.updates)


if __name__ == "__main__":
    main(
        run,
        __doc__,
        {
            "items": "base.parquet of rule prepare",
            "out": "policy directory to write",
            "summary": "JSON to write: the loss of every update",
            "progress": "where a killed stage left off",
        },
    )
