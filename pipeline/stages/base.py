"""Rule `base`: train the base model with the masked-diffusion objective, install an exact one, or import one."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from pipeline.ctmc.exact import posteriors
from pipeline.errors import PipelineError
from pipeline.models.base import Model, blocks_of
from pipeline.models.policy_directory import (
    cast_weights,
    described,
    find_checkpoint,
    load_policy,
    make_trainable,
    merge_adapters,
    save_policy,
    weight_files,
)
from pipeline.objectives.context import value_ids
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.plugins import load_model, resolve_task
from pipeline.runtime.compilation import compile_blocks, compiles
from pipeline.runtime.distributed import device, distribute, gather_trained, is_main_process
from pipeline.runtime.random_streams import Stream, seed_torch
from pipeline.settings.features import SMALL
from pipeline.settings.stages import BaseSettings, plain_json
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import digest, discard, write_json
from pipeline.storage.fingerprint import fingerprint_of
from pipeline.tasks.base import HELD_OUT, Item, Task, TaskSettings, name_of
from pipeline.text.prompts import prompt_format
from pipeline.text.tokenizer import character_tokenizer, load_tokenizer, mask_id
from pipeline.training.adamw import AdamW
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.corpus import batches, read_rows, replays
from pipeline.training.gradient_checkpointing import decide_checkpointing
from pipeline.training.loop import fit
from pipeline.training.replay_buffer import Replay

ARGUMENTS = {
    "items": "base.parquet of rule prepare; the other splits lie beside it",
    "limits=": 'what follows a prompt: {"train" or "held_out": [[prefill, most answer tokens], …]}',
    "out": "policy directory to write",
    "summary": "JSON to write: the loss of every update",
    "checkpoint": "where a killed stage left off",
}


def run(args: Namespace, settings: BaseSettings) -> None:
    plugin, task, base = load_model(settings.model.name), resolve_task(settings.task), settings.base
    losses: list[float] = []
    source = find_checkpoint(base.path, plugin, base.revision) if base.path else None
    imported = described(str(base.path), source) if source else None
    tokenizer = load_tokenizer(source) if source else character_tokenizer(task.characters(base.lengths or ()))
    check_items(read_items(args), args.limits, settings, source, plugin, tokenizer)
    corpora = read_corpora(args.items, settings, source, plugin, tokenizer) if base.trains else []
    if source:
        # In memory, not on the device, where weights are sharded later or only copied.
        model, _, _ = load_policy(source, plugin, device() if base.trains and args.sharding == "none" else "cpu")
        cast_weights(model, settings.model.dtype)
        if plugin.adopt:
            plugin.adopt(model, settings.model)
    else:
        model = fresh(plugin, settings, tokenizer, task.answer_length)
        if base.exact:
            install_exact(plugin, model, tokenizer, task)
    if base.trains:
        losses = train(args, settings, model, corpora, source)
    model.requires_grad_(True)  # else sharded weights under trained adapters would not be gathered
    gather_trained(model)
    if is_main_process():
        save_policy(args.out, merge_adapters(model, plugin), tokenizer, plugin, source, imported)
        write_json(args.summary, {"losses": losses, "parameters": sum(p.numel() for p in model.parameters())})
        discard(args.checkpoint)


def read_items(args: Namespace) -> dict[str, list[Item]]:
    """The items that prompts are made of, as rule `prepare` has written them."""
    files = {split: args.items.with_name(f"{split}.parquet") for split in ("train", *HELD_OUT)}
    return {split: [Item(**row) for row in parquet.read_items(files[split], may_be_empty=True)] for split in files}


def read_corpora(
    split: Path, settings: BaseSettings, source: Path | None, plugin: Model, tokenizer: Tokenizer
) -> list[Replay]:
    """What the base learns from, the task's own `split` by default; before any weight is read."""
    config = plugin.check(source) if source and plugin.check else None
    of_policy = prompt_format(source or split, config, tokenizer, resolve_task(settings.task))
    return replays(settings.base, read_rows(settings.base, split), of_policy)


def check_items(
    splits: Mapping[str, Sequence[Item]],
    limits: Mapping[str, Sequence[tuple[str, int]]],
    settings: BaseSettings,
    source: Path | None,
    plugin: Model,
    tokenizer: Tokenizer,
) -> None:
    """PipelineError for a prompt of any split that holds [MASK] or, with its answer, is too long for the model, and for
    an answer that cannot start as its item says.

    It comes before anything is trained, so that no late round stops at an item that it is the first to use.

    Args:
        limits: what follows a prompt; see ARGUMENTS.
        source: the checkpoint; None for a model that is made here.
    """
    task, one_length = resolve_task(settings.task), settings.model.name in SMALL
    config = plugin.check(source) if source and plugin.check else None
    if task.chat and config is None:  # the model's limits are not known without its weights
        return
    prefills = {prefill for pairs in limits.values() for prefill, _ in pairs}
    formats = {prefill: prompt_format(source or Path(), config, tokenizer, task, prefill) for prefill in prefills}
    for split in ("train", *HELD_OUT):
        items = splits[split]
        names = [name_of(number, split, item) for number, item in enumerate(items)]
        for prefill, length in limits["held_out" if split in HELD_OUT else "train"]:
            of_policy = formats[prefill]
            of_policy.prompts([item.prompt for item in items], names, length)
            starts = of_policy.starts([item.start for item in items], names, length)
            for name, start in zip(names, starts, strict=True):
                if one_length and len(start) != length:
                    wanted = f"model '{settings.model.name}' is made for answers of one length, {length}"
                    raise PipelineError(f"the start of item {name} has {len(start)} tokens, but {wanted}: take llada")


def fresh(plugin: Model, settings: BaseSettings, tokenizer: Tokenizer, length: int) -> nn.Module:
    """A model with random weights for answers of `length` tokens."""
    seed_torch(settings.seed, Stream.INITIALIZATION)
    model = plugin.create(settings.model, tokenizer.get_vocab_size(), mask_id(tokenizer), length)
    return cast_weights(model, settings.model.dtype)


def install_exact(plugin: Model, model: nn.Module, tokenizer: Tokenizer, task: Task[TaskSettings]) -> None:
    """Give the model the posteriors of the task's own joint."""
    if plugin.install is None or task.enumerated is None:
        raise PipelineError("base.exact: this model cannot hold a given law; see models/tabular.py")
    log_joint = torch.from_numpy(task.enumerated.base).log()
    plugin.install(model, value_ids(task, tokenizer), posteriors(log_joint))


def train(
    args: Namespace, settings: BaseSettings, model: nn.Module, corpora: Sequence[Replay], source: Path | None
) -> list[float]:
    """Masked-diffusion training of a fresh model or of the one that was saved in `source`; returns the loss of every
    update."""
    base, seed, plugin = settings.base, settings.seed, load_model(settings.model.name)
    sharded, compiled = args.sharding == "full", compiles(args.compile)
    recompute = decide_checkpointing(
        base,
        model,
        prompt=max(corpus.prompt.shape[1] for corpus in corpora),
        answer=max(corpus.tokens.shape[2] for corpus in corpora),
        sharded=sharded,
        compiled=compiled,
    )
    section = base.model_copy(update={"gradient_checkpointing": recompute})
    make_trainable(model, plugin, section, seed, source or args.out, args.out)
    distribute(compile_blocks(model, args.compile), sharded)

    def schedule(number: int) -> float:
        return base.lr * min(1.0, (number + 1) / max(1, base.warmup)) * (1 - number / base.updates)

    optimizer, drawn = AdamW(model, base), batches(corpora, base, seed, blocks_of(model))
    started_from = [fingerprint_of(*weight_files(source))] if source else []
    checkpoint = Checkpoint(args.checkpoint, digest(plain_json(settings), args.code, args.items, *started_from))
    return fit(
        model,
        optimizer,
        drawn,
        weighted_cross_entropy,
        schedule,
        base,
        checkpoint,
        seed=seed,
        round_=0,
        updates=base.updates,
        title="base",
    )


if __name__ == "__main__":
    main(run, BaseSettings, __doc__, ARGUMENTS)
