"""Rule `train`: train the policy of the round before on the targets, with the optimiser state of that round."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from pipeline.models.base import Model, blocks_of
from pipeline.models.policy_directory import load_frozen, load_policy, make_trainable, save_policy, weight_files
from pipeline.objectives.context import LossContext, value_ids
from pipeline.plugins import load_algorithm, load_model, resolve_task
from pipeline.runtime.compilation import compile_blocks, compiles
from pipeline.runtime.distributed import device, distribute, gather_trained, is_main_process
from pipeline.runtime.random_streams import Stream
from pipeline.settings.method import Frozen, Settings
from pipeline.settings.sections import Train
from pipeline.settings.stages import TrainSettings, plain_json
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import digest, discard, replacing, write_json
from pipeline.storage.fingerprint import fingerprint_of
from pipeline.text.prompts import load_prompt_format
from pipeline.text.tokenizer import token_ids
from pipeline.training.adamw import AdamW, load_optimizer_state, optimizer_state
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.gradient_checkpointing import decide_checkpointing
from pipeline.training.loop import fit
from pipeline.training.speed import Measured
from pipeline.training.throughput import Meter
from pipeline.workflow.retention import prune

ARGUMENTS = {
    "targets": "Parquet of rule adjoint",
    "policy": "policy directory of the round before",
    "base": "policy directory of the base model",
    "optimizer?": "optimiser state of the round before; none in round 1",
    "round#": "number of the round, from 1",
    "out": "policy directory to write",
    "optimizer-out": "safetensors to write: the optimiser state",
    "summary": "JSON to write: the loss of every update",
    "checkpoint": "where a killed stage left off",
}


def run(args: Namespace, settings: TrainSettings) -> Measured | None:
    plugin, algorithm, seed = load_model(settings.model.name), load_algorithm(settings.algorithm.name), settings.seed
    # Sharded weights are read into memory first; a whole copy goes straight to the device.
    where = "cpu" if args.sharding == "full" else device()
    policy, tokenizer, mask_id = load_policy(args.policy, plugin, where, merged=False)
    targets = parquet.read_targets(args.targets, args.round, settings.rollout.completions, token_ids(tokenizer))
    train = prepare_policy(args, settings, plugin, policy, targets)
    optimizer, warmup = AdamW(policy, train, train.ema), train.warmup
    if args.optimizer and not settings.algorithm.restarts_optimizer:
        load_optimizer_state(args.optimizer, optimizer)
        warmup = 0
    assert algorithm.replay and algorithm.loss
    replay = algorithm.replay(targets, settings.rollout, settings.algorithm, mask_id)
    replay = replace(replay, blocks_from_prompt=blocks_of(policy) is not None)
    batches = replay.batches(train.updates, train.batch_size, seed, Stream.REPLAY, args.round)
    loss = partial(algorithm.loss, context=loss_context(args, settings, plugin, policy, tokenizer, mask_id))
    lr: float = train.lr * train.lr_decay ** (args.round - 1)

    def schedule(number: int) -> float:
        return lr * min(1.0, (number + 1) / max(1, warmup))

    weights = [*weight_files(args.policy), *weight_files(args.base), *filter(None, [args.optimizer])]
    key = digest(plain_json(settings), args.code, args.targets, fingerprint_of(*weights))
    checkpoint = Checkpoint(args.checkpoint, key)
    numbers = {"seed": seed, "round_": args.round, "updates": train.updates}
    with Meter(policy, recompute=bool(train.gradient_checkpointing)) as meter:
        title = f"round {args.round} train"
        losses = fit(policy, optimizer, batches, loss, schedule, train, checkpoint, **numbers, title=title)
    optimizer.take_averages()
    save(args, settings, plugin, policy, tokenizer, optimizer, losses)
    return meter.measured(tokens=meter.positions)


def prepare_policy(
    args: Namespace, settings: TrainSettings, plugin: Model, policy: nn.Module, targets: pa.Table
) -> Train:
    """Make the policy trainable, on all ranks; returns the section `train` with what gradient checkpointing became."""
    sharded, answer = args.sharding == "full", max(parquet.lengths(targets, "tokens"))
    recompute = decide_checkpointing(
        settings.train,
        policy,
        prompt=max(parquet.lengths(targets, "prompt_tokens")),
        answer=answer,
        whole=settings.algorithm.held_whole(settings.rollout, answer),
        passes=settings.algorithm.passes(settings.rollout),
        copies=len(settings.algorithm.frozen_policies),
        sharded=sharded,
        compiled=compiles(args.compile),
    )
    train = settings.train.model_copy(update={"gradient_checkpointing": recompute})
    make_trainable(policy, plugin, train, settings.seed, args.base, args.out)
    distribute(compile_blocks(policy, args.compile), sharded)
    return train


def loss_context(
    args: Namespace, settings: TrainSettings, plugin: Model, policy: nn.Module, tokenizer: Tokenizer, mask_id: int
) -> LossContext[Settings]:
    """What the loss knows beside policy and batch."""
    task = resolve_task(settings.task)
    frozen = open_frozen(args, settings.algorithm.frozen_policies, plugin, policy)
    values = value_ids(task, tokenizer).to(device())
    end_ids = load_prompt_format(args.policy, policy, tokenizer, task).end_ids
    return LossContext(settings.algorithm, task, mask_id, values, settings.rollout, frozen, end_ids)


def open_frozen(args: Namespace, names: Sequence[Frozen], plugin: Model, policy: nn.Module) -> dict[Frozen, nn.Module]:
    """The policies that the loss reads beside the one that trains. In round 1 both may be the base, opened once."""
    directories = {"behavior": args.policy, "base": args.base}
    once = dict.fromkeys(directories[name] for name in names)
    opened = {path: compile_blocks(load_frozen(path, plugin, policy, device()), args.compile) for path in once}
    return {name: opened[directories[name]] for name in names}


def save(
    args: Namespace,
    settings: TrainSettings,
    plugin: Model,
    policy: nn.Module,
    tokenizer: Tokenizer,
    optimizer: AdamW,
    losses: Sequence[float],
) -> None:
    """Write the outputs, and remove the files of earlier rounds that need not be kept. Every process must call this."""
    state = optimizer_state(optimizer)
    if settings.train.adapter is None:
        policy.requires_grad_(True)  # also parameters that no logit depends on: they were frozen, but are saved
    gather_trained(policy)
    if is_main_process():
        prune(args.out.parent.parent, args.round - 1, args.keep)
        save_policy(args.out, policy, tokenizer, plugin, args.policy)
        with replacing(args.optimizer_out) as temporary:
            save_file(state, temporary)
        write_json(args.summary, {"losses": losses})
        discard(args.checkpoint)


if __name__ == "__main__":
    main(run, TrainSettings, __doc__, ARGUMENTS)
