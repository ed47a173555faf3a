"""Rule `rollout`: one shard of a round's trajectories, sampled from the policy and rewarded."""

from argparse import Namespace
from contextlib import closing

import numpy as np
from tqdm import tqdm

from pipeline.models.base import check_features
from pipeline.models.policy_directory import load_policy
from pipeline.plugins import load_model, resolve_task
from pipeline.runtime.compilation import compile_blocks
from pipeline.runtime.distributed import device
from pipeline.samplers.round_states import prompts_of_round, sample_states
from pipeline.settings.features import asked_of
from pipeline.settings.stages import RolloutSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.provenance import provenance
from pipeline.tasks.base import Item
from pipeline.tasks.scoring import Scorer
from pipeline.text.prompts import load_prompt_format
from pipeline.text.tokenizer import buckets
from pipeline.training.speed import Measured
from pipeline.training.throughput import Meter

ARGUMENTS = {
    "items": "train.parquet of rule prepare",
    "policy": "policy directory of the round before",
    "round#": "number of the round, from 1",
    "shard#": "number of the shard, from 0",
    "out": "Parquet to write",
}


def run(args: Namespace, settings: RolloutSettings) -> Measured | None:
    rollout, task, plugin = settings.rollout, resolve_task(settings.task), load_model(settings.model.name)
    check_features(plugin, asked_of(rollout, "rollout"))
    length = rollout.length or task.answer_length
    policy, tokenizer, mask_id = load_policy(args.policy, plugin, device())
    compile_blocks(policy, args.compile)
    table = parquet.read([args.items], parquet.ITEMS)
    chosen = prompts_of_round(len(table), rollout.prompts, args.round, settings.seed)
    items = [Item(**row) for row in table.take(chosen).drop_columns("item_id").to_pylist()]
    numbers, item_of = chosen.tolist(), dict(zip(chosen.tolist(), items, strict=True))
    prompt_format = load_prompt_format(args.policy, policy, tokenizer, task, rollout.prefill)
    prompts = prompt_format.prompts([item.prompt for item in items], numbers, length)
    starts = prompt_format.starts([item.start for item in items], numbers, length)
    # Whole batches go to a shard, so a batch is composed alike, and computed alike, for any number of shards.
    states_per_batch = max(1, rollout.batch_size // rollout.completions)
    lengths = [(len(prompt), len(start)) for prompt, start in zip(prompts, starts, strict=True)]
    batches = buckets(lengths, states_per_batch)[args.shard :: rollout.shards]
    done: list[dict[str, np.ndarray]] = []
    meter = Meter(policy)
    with closing(Scorer(settings.task, rollout.reward_timeout)) as score:
        for states in tqdm(batches, desc=f"round {args.round} rollout", unit="batch", disable=args.shard > 0):
            with meter:
                rows = sample_states(
                    policy, prompts, chosen, starts, states, mask_id, rollout, settings.seed, args.round
                )
            answers = prompt_format.answers(rows["tokens"])
            ids = rows["prompt_id"].tolist()
            metrics = score([item_of[index] for index in ids], answers, ids)
            reward = np.array([float(metric["reward"]) for metric in metrics])
            done.append({**{name: values.numpy() for name, values in rows.items()}, "reward": reward})
    columns = {name: parquet.joined([rows[name] for rows in done]) for name in parquet.ROLLOUTS.names}
    parquet.write(args.out, columns, parquet.ROLLOUTS, provenance(settings))
    return meter.measured(tokens=sum(rows["tokens"].size for rows in done))


if __name__ == "__main__":
    main(run, RolloutSettings, __doc__, ARGUMENTS)
