"""Rule `reference`: log p^base along the paths of one shard of rollouts, by teacher forcing.

Rollouts with a block cache are replayed under the same cache, so that every ratio p^base / p^u is one of laws sampled.
"""

from argparse import Namespace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.models.base import check_features
from pipeline.models.policy_directory import load_policy
from pipeline.objectives.targets import rows_to_replay
from pipeline.plugins import load_model
from pipeline.runtime.compilation import compile_blocks
from pipeline.runtime.distributed import device
from pipeline.runtime.memory_limits import STATES, TOKENS
from pipeline.samplers.ancestral import Trajectories, path_log_prob
from pipeline.settings.features import asked_of
from pipeline.settings.stages import ReferenceSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.provenance import provenance
from pipeline.text.tokenizer import buckets, token_ids
from pipeline.training.speed import Measured
from pipeline.training.throughput import Meter

ROWS = 256
"""Trajectories replayed between two steps of the progress bar."""

ARGUMENTS = {
    "rollouts": "the shard of rule rollout",
    "base": "policy directory of the base model",
    "round#": "number of the round, from 1",
    "shard#": "number of the shard, from 0",
    "replay#": "how many of the round's rollouts to replay, in all shards together",
    "out": "Parquet to write",
}


def run(args: Namespace, settings: ReferenceSettings) -> Measured | None:
    plugin, cached_blocks = load_model(settings.model.name), settings.rollout.cached_blocks
    check_features(plugin, asked_of(settings.rollout, "rollout"))
    base, tokenizer, mask_id = load_policy(args.base, plugin, device())
    compile_blocks(base, args.compile)
    vocabulary = token_ids(tokenizer)
    rounds = {"round": range(args.round, args.round + 1)}
    table = parquet.read([args.rollouts], parquet.ROLLOUTS, may_be_empty=True, vocabulary=vocabulary, limits=rounds)
    place = np.asarray(table.column("state_id")) * settings.rollout.completions + np.asarray(table.column("sample_id"))
    replayed = rows_to_replay(settings.rollout, args.replay, settings.seed, args.round)
    rows = table.take(np.flatnonzero(np.isin(place, replayed)))
    done: list[np.ndarray] = []
    order: list[int] = []
    meter = Meter(base)
    lengths = list(zip(parquet.lengths(rows, "prompt_tokens"), parquet.lengths(rows, "tokens"), strict=True))
    title, batches = f"round {args.round} reference", buckets(lengths, ROWS)
    for places in tqdm(batches, desc=title, unit="batch", disable=args.shard > 0):
        with meter:
            done.append(log_prob_of(base, rows.take(places), mask_id, cached_blocks).numpy())
        order += places
    rows = rows.take(np.array(order, dtype=np.int64))  # a shard may hold none
    columns: dict[str, parquet.Column] = {name: rows.column(name) for name in ("state_id", "sample_id")}
    columns["base_log_prob"] = parquet.joined(done)
    parquet.write(args.out, columns, parquet.REFERENCES, provenance(settings))
    return meter.measured(tokens=sum(part.size for part in done))


def log_prob_of(model: nn.Module, rows: pa.Table, mask_id: int, cached_blocks: int | None = None) -> Tensor:
    """log p(x_i | x_s, i) along the stored paths, [rows, L], or log p̃ if they were drawn with a cache of these blocks;
    the prompts have one length, and the answers."""
    on = next(model.parameters()).device
    prompt, tokens, unmask_step = (
        torch.from_numpy(parquet.matrix(rows, name)).long().to(on)
        for name in ("prompt_tokens", "tokens", "unmask_step")
    )
    path = Trajectories(tokens, unmask_step, torch.zeros(tokens.shape, device=on))
    states = max(1, min(STATES, TOKENS // (prompt.shape[1] + tokens.shape[1])))
    found = path_log_prob(model, prompt, path, mask_id=mask_id, states_per_batch=states, cached_blocks=cached_blocks)
    return found.cpu()


if __name__ == "__main__":
    main(run, ReferenceSettings, __doc__, ARGUMENTS)
