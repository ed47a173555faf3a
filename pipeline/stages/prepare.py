"""Rule `prepare`: the items of every split, checked, as Parquet."""

from argparse import Namespace
from collections.abc import Mapping, Sequence

from pipeline.errors import PipelineError, users_code
from pipeline.plugins import load_task, nearest, resolve_task
from pipeline.settings.stages import PrepareSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.provenance import provenance
from pipeline.tasks.base import HELD_OUT, OPTIONAL, SPLITS, Item, name_of


def run(args: Namespace, settings: PrepareSettings) -> None:
    for split, items in checked_items(settings).items():
        columns = {name: [getattr(item, name) for item in items] for name in parquet.ITEMS.names[1:]}
        columns["item_id"] = list(range(len(items)))
        parquet.write(args.out / f"{split}.parquet", columns, parquet.ITEMS, provenance(settings))


def checked_items(settings: PrepareSettings) -> dict[str, Sequence[Item]]:
    """The items of every split, empty for an optional one that is left out.

    Raises:
        PipelineError: if a split is missing, a training item is also held out, or a start has no hole.
    """
    splits, hole = items_of(settings), resolve_task(settings.task).hole
    held_out = {(item.prompt, item.start) for split in HELD_OUT for item in splits.get(split, ())}
    for split in SPLITS:
        items = splits.get(split, ())
        if not items and split not in OPTIONAL:
            raise PipelineError(f"task '{settings.task.name}' has no items in the split '{split}'")
        for index, item in enumerate(items if split not in HELD_OUT else ()):
            if (item.prompt, item.start) in held_out:
                shown = repr(item.start or item.prompt)
                raise PipelineError(f"item {name_of(index, split, item)} is also held out for testing: {shown}")
        for index, item in enumerate(items):
            if split != "base" and (item.start.count(hole) == 0 if hole else item.start != ""):
                wanted = (
                    f"a start with a hole, {hole!r} (Task.hole)" if hole else "no start unless the task names a hole"
                )
                raise PipelineError(f"item {name_of(index, split, item)} needs {wanted}, not {item.start[:80]!r}")
    return {split: splits.get(split, ()) for split in SPLITS}


def items_of(settings: PrepareSettings) -> Mapping[str, Sequence[Item]]:
    """The items of each split. PipelineError if a user's code raises or returns something else; the log has details."""
    name = settings.task.name
    with users_code(f"task '{name}': items", PipelineError):
        made = load_task(name).items(settings.task, settings.seed)
        splits = {split: list(items) for split, items in made.items()}
        if unknown := sorted(set(splits) - set(SPLITS)):
            raise ValueError(f"no split is called {unknown[0]!r}: {nearest(unknown[0], SPLITS)}")
        for split, items in splits.items():
            for item in items:
                if not isinstance(item, Item) or not all(isinstance(value, str) for value in vars(item).values()):
                    raise TypeError(f"an item of the split '{split}' is no Item of texts: {str(item)[:200]}")
                "".join(vars(item).values()).encode()  # ValueError for lone surrogates
    return splits


if __name__ == "__main__":
    main(run, PrepareSettings, __doc__, {"out": "directory for one Parquet file a split"})
