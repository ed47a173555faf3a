"""Rule `prepare`: the items of every split, checked, as Parquet."""

from argparse import Namespace

from pipeline.errors import PipelineError
from pipeline.plugins import load
from pipeline.stages import main
from pipeline.storage import parquet as records
from pipeline.storage.provenance import provenance
from pipeline.tasks.base import HELD_OUT, OPTIONAL, SPLITS


def run(args: Namespace) -> None:
    settings = dict(args.settings.task)
    task = load("task", settings.pop("name"))
    splits = task.items(task.settings(**settings), args.settings.seed)
    held_out = {item.prompt for split in HELD_OUT for item in splits.get(split, ())}
    for split in SPLITS:
        items = splits.get(split, ())
        if not items and split not in OPTIONAL:
            raise PipelineError(f"task '{args.settings.task['name']}' has no items in the split '{split}'")
        if split in ("base", "train"):
            for index, item in enumerate(items):
                if item.prompt in held_out:
                    raise PipelineError(
                        f"item {index} of the split '{split}' is also held out for testing: {item.prompt!r}"
                    )
        columns = {name: [getattr(item, name) for item in items] for name in ("prompt", "reference", "group")}
        columns["item_id"] = list(range(len(items)))
        records.write(args.out / f"{split}.parquet", columns, records.ITEMS, provenance(args.settings))


if __name__ == "__main__":
    main(run, __doc__, {"out": "directory for one Parquet file a split"})
