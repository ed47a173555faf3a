"""Rule `prepare`: the items of every split, checked, as Parquet."""

from argparse import Namespace

from pipeline.errors import PipelineError
from pipeline.plugins import load_task
from pipeline.settings.stages import PrepareSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.provenance import provenance
from pipeline.tasks.base import HELD_OUT, OPTIONAL, SPLITS


def run(args: Namespace, settings: PrepareSettings) -> None:
    splits = load_task(settings.task.name).items(settings.task, settings.seed)
    held_out = {item.prompt for split in HELD_OUT for item in splits.get(split, ())}
    for split in SPLITS:
        items = splits.get(split, ())
        if not items and split not in OPTIONAL:
            raise PipelineError(f"task '{settings.task.name}' has no items in the split '{split}'")
        for index, item in enumerate(items if split not in HELD_OUT else ()):
            if item.prompt in held_out:
                raise PipelineError(
                    f"item {index} of the split '{split}' is also held out for testing: {item.prompt!r}"
                )
        columns = {name: [getattr(item, name) for item in items] for name in ("prompt", "reference", "group")}
        columns["item_id"] = list(range(len(items)))
        parquet.write(args.out / f"{split}.parquet", columns, parquet.ITEMS, provenance(settings))


if __name__ == "__main__":
    main(run, PrepareSettings, __doc__, {"out": "directory for one Parquet file a split"})
