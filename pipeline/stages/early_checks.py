"""Check what takes a user's code or PyTorch to check; write nothing.

`items` makes a task's items and checks them, against a checkpoint if it is at hand, and tries a user's own reward on
one. `model` imports a model and checks that it can do what a run asks of it. `snakemake -n` runs both, so that what
rules would refuse later stops it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from pipeline.settings.stages import BaseSettings, PrepareSettings, parse_settings
from pipeline.stages.command_line import errors_on_one_line
from pipeline.stages.prepare import checked_items
from pipeline.tasks.base import Item, need_base_items
from pipeline.tasks.scoring import Scorer

Limits = Mapping[str, Sequence[tuple[str, int]]]


def check(path: Path, items: Mapping[str, Sequence[Item]], limits: Limits, settings: BaseSettings) -> None:
    """Check the items, and the base's own texts, against a checkpoint: see `stages.base.check_items`."""
    # Importing PyTorch takes seconds that a check without a checkpoint does not need.
    from pipeline.plugins import load_model  # noqa: PLC0415
    from pipeline.stages.base import check_items, read_corpora  # noqa: PLC0415
    from pipeline.text.tokenizer import load_tokenizer  # noqa: PLC0415

    plugin, tokenizer = load_model(settings.model.name), load_tokenizer(path)
    check_items(items, limits, settings, path, plugin, tokenizer)
    if settings.base.file:
        read_corpora(path, settings, path, plugin, tokenizer)


def try_reward(items: Mapping[str, Sequence[Item]], settings: BaseSettings, timeout: float) -> None:
    """Score one reference as an answer if the reward is a user's own, so that a mistake in it costs no rollouts. Where
    there is none, the answer is empty, which a chat model's may be."""
    score = Scorer(settings.task, timeout)
    item = next(items[split] for split in ("train", "test") if items[split])[0]
    with closing(score):
        if score.process and (item.reference or score.task.chat):
            score([item], [item.reference])


def run_items(args: argparse.Namespace) -> None:
    settings = parse_settings(args.settings, BaseSettings)
    items = checked_items(PrepareSettings(seed=settings.seed, task=settings.task))
    if settings.base.trains and not settings.base.file:
        need_base_items(items["base"])
    if args.checkpoint:
        check(args.checkpoint, items, args.limits, settings)
    try_reward(items, settings, args.reward_timeout)


def run_model(args: argparse.Namespace) -> None:
    from pipeline.models.base import check_features  # noqa: PLC0415
    from pipeline.plugins import load_model  # noqa: PLC0415

    check_features(load_model(args.name), args.asked)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    of_items, of_model = kinds.add_parser("items"), kinds.add_parser("model")
    of_items.set_defaults(run=run_items)
    of_items.add_argument("--settings", required=True, help="sections of rule base, as JSON")
    of_items.add_argument("--limits", required=True, type=json.loads, help="the argument of rule base")
    of_items.add_argument("--reward-timeout", type=float, default=10.0, help="seconds for one answer")
    of_items.add_argument("--checkpoint", type=Path, help="directory with config.json and tokenizer.json")
    of_model.set_defaults(run=run_model)
    of_model.add_argument("name", help="name or import path of the model")
    of_model.add_argument("asked", nargs="*", help="keys of the run, such as train.adapter")
    args = parser.parse_args()
    with errors_on_one_line():
        args.run(args)
