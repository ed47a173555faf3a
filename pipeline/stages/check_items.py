"""Make a task's items and check them against a checkpoint; write nothing.

`snakemake -n` runs this for an imported base, so that what rules `prepare` and `base` would refuse stops the dry run.
"""

import argparse
import json
from pathlib import Path

from pipeline.plugins import load_model
from pipeline.settings.stages import BaseSettings, PrepareSettings, parse_settings
from pipeline.stages.base import ARGUMENTS, check_items, read_corpora
from pipeline.stages.command_line import errors_on_one_line
from pipeline.stages.prepare import checked_items
from pipeline.text.tokenizer import load_tokenizer

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="sections of rule base, as JSON")
    parser.add_argument("--limits", required=True, type=json.loads, help=ARGUMENTS["limits="])
    parser.add_argument("--checkpoint", required=True, type=Path, help="directory with config.json and tokenizer.json")
    args = parser.parse_args()
    with errors_on_one_line():
        settings = parse_settings(args.settings, BaseSettings)
        items = checked_items(PrepareSettings(seed=settings.seed, task=settings.task))
        plugin, tokenizer = load_model(settings.model.name), load_tokenizer(args.checkpoint)
        check_items(items, args.limits, settings, args.checkpoint, plugin, tokenizer)
        if settings.base.file:
            read_corpora(args.checkpoint, settings, args.checkpoint, plugin, tokenizer)
