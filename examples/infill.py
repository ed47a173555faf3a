"""A task whose answers start partly revealed: words with holes, rewarded for alphabetical order.

    task: {name: examples.infill}       # in params.yaml

`Task.hole` names the character that stands for one masked token in `Item.start`. Only the holes are sampled and learnt.
"""

import random

from examples.words import LETTERS, score
from pipeline.tasks.base import Item, Task, TaskSettings

STARTS = {"train": ("_b__", "__a_", "c__b"), "test": ("a__c", "_bc_")}


class Infill(TaskSettings):
    """No keys besides `name`."""


def items(settings: Infill, seed: int) -> dict[str, list[Item]]:
    rng = random.Random(seed)
    made = {split: [Item(">", "", start=start) for start in starts] for split, starts in STARTS.items()}
    words = ["".join(rng.choices(LETTERS, [2, 1, 1], k=4)) for _ in range(1000)]
    return {**made, "base": [Item(">", word) for word in words]}


PLUGIN = Task(settings=Infill, alphabet=LETTERS + ">", answer_length=4, items=items, score=score, hole="_")
