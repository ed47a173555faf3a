"""Rule `base` on saved models and on words of one's own, in one process or in those that `torch.distributed.run`
starts."""

import sys
from argparse import Namespace
from pathlib import Path

from accelerate import PartialState

from pipeline.settings.stages import BaseSettings
from pipeline.stages import base

ADAPTER = {"rank": 4, "alpha": 8, "dropout": 0.1}
TARGETS = {"masked_lm": ["query", "key", "value", "dense"], "llada": ["q_proj", "v_proj", "up_proj", "down_proj"]}
CASES = [(model, adapter, sharding) for model in TARGETS for adapter in (False, True) for sharding in ("none", "full")]
DATA = Path("words.txt")


def settings(model: str, adapter: bool, **changes: object) -> BaseSettings:
    section = {"path": model, "data": str(DATA), "updates": 40, "batch_size": 16, "lr": 1e-2, "warmup": 5}
    section |= {"adapter": {**ADAPTER, "targets": TARGETS[model]}} if adapter else {}
    task = {"name": "examples.words", "base_items": 200}
    return BaseSettings(seed=0, task=task, model={"name": model}, base={**section, **changes})


def arguments(out: Path, sharding: str = "none") -> Namespace:
    out.mkdir(parents=True, exist_ok=True)
    files = {"out": out / "policy", "summary": out / "train.json", "checkpoint": out / "train.checkpoint"}
    limits = {"train": [["", 3]], "held_out": [["", 3]]}
    items = Path("items", "base.parquet")
    return Namespace(items=items, limits=limits, **files, code="", sharding=sharding, compile=False, threads=1)


def name(model: str, adapter: bool, sharding: str = "none") -> str:
    return f"{model}-{'adapter' if adapter else 'all'}-{sharding}"


if __name__ == "__main__":
    for model, adapter, sharding in CASES:
        base.run(arguments(Path(sys.argv[1], name(model, adapter, sharding)), sharding), settings(model, adapter))
        PartialState().wait_for_everyone()
