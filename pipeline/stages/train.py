"""Rule `train`: one round of matching, from the policy and the optimiser state of the round before."""

from argparse import Namespace
from functools import partial

from safetensors.torch import save_file

from pipeline.models.policy_directory import load_frozen, load_policy, make_trainable, save_policy, weight_files
from pipeline.objectives.context import LossContext, value_ids
from pipeline.plugins import load_algorithm, load_model, resolve_task
from pipeline.runtime.distributed import device, distribute, gather_trained, is_main_process
from pipeline.runtime.random_streams import Stream
from pipeline.settings.stages import TrainSettings, plain_json
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import digest, discard, replacing, write_json
from pipeline.text.prompts import load_prompt_format
from pipeline.text.tokenizer import token_ids
from pipeline.training.adamw import AdamW, load_optimizer_state, optimizer_state
from pipeline.training.loop import Progress, fit
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
    "progress": "where a killed stage left off",
}


def run(args: Namespace, settings: TrainSettings) -> Measured | None:
    train, plugin, algorithm = settings.train, load_model(settings.model.name), load_algorithm(settings.algorithm.name)
    policy, tokenizer, mask_id = load_policy(args.policy, plugin)
    make_trainable(policy, plugin, train, settings.seed, args.base, args.out)
    distribute(policy, args.sharding == "full")
    optimizer, warmup = AdamW(policy, train), train.warmup
    if args.optimizer and not settings.algorithm.restarts_optimizer:
        load_optimizer_state(args.optimizer, optimizer)
        warmup = 0
    targets = parquet.read(
        [args.targets], parquet.TARGETS, completions=settings.rollout.completions, vocabulary=token_ids(tokenizer)
    )
    assert algorithm.replay and algorithm.loss
    replay = algorithm.replay(targets, settings.rollout, settings.algorithm, mask_id)
    directories = {"behavior": args.policy, "base": args.base}
    frozen = settings.algorithm.frozen_policies
    task = resolve_task(settings.task)
    context = LossContext(
        settings.algorithm,
        task,
        mask_id,
        value_ids(task, tokenizer).to(device()),
        settings.rollout,
        frozen={name: load_frozen(directories[name], plugin, policy, device()) for name in frozen},
        end_ids=load_prompt_format(args.policy, policy, tokenizer, task).end_ids,
    )
    lr = train.lr * train.lr_decay ** (args.round - 1)
    inputs = [args.targets, *weight_files(args.policy), *weight_files(args.base), *filter(None, [args.optimizer])]
    with Meter(policy, recompute=train.gradient_checkpointing) as meter:
        losses = fit(
            policy,
            optimizer,
            replay.batches(train.updates, train.batch_size, settings.seed, Stream.REPLAY, args.round),
            partial(algorithm.loss, context=context),
            lambda number: lr * min(1.0, (number + 1) / max(1, warmup)),
            train,
            Progress(args.progress, digest(plain_json(settings), args.code, *inputs)),
            seed=settings.seed,
            round_=args.round,
            updates=train.updates,
            title=f"round {args.round} train",
        )
    state = optimizer_state(optimizer)
    gather_trained(policy)
    if is_main_process():
        prune(args.out.parent.parent, args.round - 1, args.keep)
        save_policy(args.out, policy, tokenizer, plugin, args.policy)
        with replacing(args.optimizer_out) as temporary:
            save_file(state, temporary)
        write_json(args.summary, {"losses": losses})
        discard(args.progress)
    return meter.measured(tokens=meter.positions)


if __name__ == "__main__":
    main(run, TrainSettings, __doc__, ARGUMENTS)
