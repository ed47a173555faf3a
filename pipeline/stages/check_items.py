"""Make a task's items and check them, against a checkpoint if it is at hand; write nothing.

`snakemake -n` runs this, so that what rules `prepare` and `base` would refuse stops the dry run.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.settings.stages import BaseSettings, PrepareSettings, parse_settings
from pipeline.stages.command_line import errors_on_one_line
from pipeline.stages.prepare import checked_items
from pipeline.tasks.base import Item, need_base_items

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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="sections of rule base, as JSON")
    parser.add_argument("--limits", required=True, type=json.loads, help="the argument of rule base")
    parser.add_argument("--checkpoint", type=Path, help="directory with config.json and tokenizer.json")
    args = parser.parse_args()
    with errors_on_one_line():
        settings = parse_settings(args.settings, BaseSettings)
        items = checked_items(PrepareSettings(seed=settings.seed, task=settings.task))
        if settings.base.trains and not settings.base.file:
            need_base_items(items["base"])
        if args.checkpoint:
            check(args.checkpoint, items, args.limits, settings)
