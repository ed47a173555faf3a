"""Rule `adjoint`: the targets of a round, its rollouts with their weights."""

from argparse import Namespace

import numpy as np

from pipeline.errors import PipelineError
from pipeline.objectives.targets import Rollouts, rows_to_replay
from pipeline.plugins import load_algorithm
from pipeline.settings.stages import AdjointSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import write_json
from pipeline.storage.provenance import provenance
from pipeline.text.tokenizer import load_tokenizer, token_ids

ARGUMENTS = {
    "rollouts*": "the shards of rule rollout",
    "references*": "the shards of rule reference",
    "previous-targets?": "targets of the round before, for the replay window",
    "round#": "number of the round, from 1",
    "policy": "policy directory that sampled the rollouts, for its vocabulary",
    "out": "Parquet to write",
    "summary": "JSON to write: the round's diagnostics",
}


def run(args: Namespace, settings: AdjointSettings) -> None:
    algorithm, completions = load_algorithm(settings.algorithm.name), settings.rollout.completions
    vocabulary = token_ids(load_tokenizer(args.policy))
    by_state = [("state_id", "ascending"), ("sample_id", "ascending")]
    place = {"state_id": range(settings.rollout.prompts), "sample_id": range(completions)}
    table = parquet.read(
        args.rollouts,
        parquet.ROLLOUTS,
        may_be_empty=True,
        completions=completions,
        vocabulary=vocabulary,
        limits=place | {"round": range(args.round, args.round + 1)},
    ).sort_by(by_state)
    if len(table) != (wanted := settings.rollout.prompts * completions):
        folder = args.rollouts[0].parent
        raise PipelineError(f"{folder} holds {len(table)} rollouts, not {wanted}: delete it and run again")
    reference = parquet.read(args.references, parquet.REFERENCES, may_be_empty=True, limits=place).sort_by(by_state)
    previous = None
    if args.previous_targets:
        previous = parquet.read_targets(args.previous_targets, args.round - 1, completions, vocabulary)
    rollouts = Rollouts(table, reference, previous, settings)
    replayed = rows_to_replay(
        settings.rollout, settings.algorithm.replayed(settings.rollout), settings.seed, args.round
    )
    if not np.array_equal(rollouts.replayed.numpy(), replayed):
        folder = args.references[0].parent
        raise PipelineError(f"{folder} does not hold the {len(replayed)} rows of this round: delete it and run again")
    assert algorithm.make_targets
    targets = algorithm.make_targets(rollouts, settings.algorithm)
    parquet.write(args.out, targets.columns, parquet.TARGETS, provenance(settings))
    write_json(args.summary, targets.diagnostics)


if __name__ == "__main__":
    main(run, AdjointSettings, __doc__, ARGUMENTS)
