"""Rule `decode`: one shard of an evaluation's answers to held-out prompts, with their metrics."""

from argparse import Namespace

from pipeline.evaluation.answers import decode, read_splits, write_shard
from pipeline.evaluation.decoding import load_decoder
from pipeline.settings.stages import EvaluateSettings
from pipeline.stages.command_line import main

ARGUMENTS = {
    "items*": "splits of rule prepare to evaluate on",
    "policy": "policy directory",
    "round#": "number of the round, 0 for the base",
    "shard#": "number of the shard, from 0",
    "out": "Parquet to write",
}


def run(args: Namespace, settings: EvaluateSettings) -> None:
    decoder, splits = load_decoder(args.policy, settings, args.compile), read_splits(args.items)
    answers = decode(decoder, splits, f"round {args.round}", shard=args.shard, shards=settings.evaluate.shards)
    write_shard(args.out, answers, settings)


if __name__ == "__main__":
    main(run, EvaluateSettings, __doc__, ARGUMENTS)
