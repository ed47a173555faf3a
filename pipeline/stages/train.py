"""Rule `train`: one round of matching, from the policy and the optimiser state of the round before."""

from argparse import Namespace
from functools import partial
from typing import Any

from safetensors.torch import save_file

from pipeline.algorithms.base import round_of
from pipeline.models.policy_directory import load_policy, make_trainable, save_policy, weights
from pipeline.plugins import load
from pipeline.runtime.distributed import device, gather_trained, is_main_process, spread
from pipeline.runtime.random_streams import Stream
from pipeline.stages import main
from pipeline.storage import parquet as records
from pipeline.storage.atomic_files import digest, discard, replacing, write_json
from pipeline.storage.provenance import plain_json
from pipeline.text.tokenizer import token_ids
from pipeline.training.adamw import AdamW, load_moments, moments
from pipeline.training.loop import Progress, fit
from pipeline.training.throughput import Meter
from pipeline.workflow.retention import prune


def run(args: Namespace) -> dict[str, Any]:
    settings, train = args.settings, args.settings.train
    policy, tokenizer, mask_id = load_policy(args.policy, settings)
    make_trainable(policy, settings, args.base, args.out)
    spread(policy, args.sharding == "full")
    optimizer = AdamW(policy, train)
    warmup = train.warmup
    if args.moments:
        load_moments(args.moments, optimizer)
        warmup = 0
    algorithm = load("algorithm", settings.algorithm.name)
    targets = records.read(
        [args.targets], records.TARGETS, completions=settings.rollout.completions, vocabulary=token_ids(tokenizer)
    )
    replay = algorithm.replay(targets, settings, mask_id)
    around = round_of(settings, tokenizer, {"behavior": args.policy, "base": args.base}, device(), policy)
    lr = train.lr * train.lr_decay ** (args.round - 1)
    inputs = [args.targets, *weights(args.policy), *weights(args.base), *([args.moments] if args.moments else [])]
    with Meter(policy, recompute=train.gradient_checkpointing) as meter:
        losses = fit(
            policy,
            optimizer,
            replay.batches(train.updates, train.batch_size, settings.seed, Stream.REPLAY, args.round),
            partial(algorithm.loss, around=around),
            lambda number: lr * min(1.0, (number + 1) / max(1, warmup)),
            train,
            Progress(args.progress, digest(plain_json(settings), args.code, *inputs)),
            updates=train.updates,
            title=f"round {args.round} train",
        )
    state = moments(optimizer)
    gather_trained(policy)
    if is_main_process():
        prune(args.out.parent.parent, args.round - 1, args.keep)
        save_policy(args.out, policy, tokenizer, settings, args.policy)
        with replacing(args.moments_out) as temporary:
            save_file(state, temporary)
        write_json(args.summary, {"losses": losses})
        discard(args.progress)
    return meter.measured(tokens=meter.positions)


if __name__ == "__main__":
    main(
        run,
        __doc__,
        {
            "targets": "Parquet of rule adjoint",
            "policy": "policy directory of the round before",
            "base": "policy directory of the base model",
            "moments?": "optimiser state of the round before; none in round 1",
            "round#": "number of the round, from 1",
            "out": "policy directory to write",
            "moments-out": "safetensors to write: the optimiser state",
            "summary": "JSON to write: the loss of every update",
            "progress": "where a killed stage left off",
        },
    )
