"""A user's reward that raises, hangs or returns nonsense stops the run with the item and the text."""

import time
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.storage import parquet
from pipeline.tasks.base import Item
from pipeline.tasks.scoring import score
from pipeline.tasks.sudoku import PLUGIN

ITEM = Item("question", "reference")


def raising(item: Item, answer: str) -> dict[str, float]:
    raise ValueError("no such cell")


def hanging(item: Item, answer: str) -> dict[str, float]:
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (raising, "raised ValueError: no such cell on item 7 (prompt 'question', answer 'text')"),
        (hanging, "took longer than 0.2 s (reward_timeout) on item 7"),
        (lambda item, answer: {"reward": float("nan")}, "the reward is nan, not a finite number, on item 7"),
        (lambda item, answer: {"reward": float("inf")}, "the reward is inf"),
        (lambda item, answer: {"accuracy": 1.0}, "has no 'reward' but ['accuracy']"),
    ],
)
def test_bad_rewards(scorer, message):
    with pytest.raises(PipelineError) as error:
        score(replace(PLUGIN, score=scorer), [ITEM], ["text"], 0.2, ids=[7])
    assert message in str(error.value)


def test_any_kind_of_number_is_a_float():
    """What NumPy and others count with cannot be written as JSON."""
    scorer = replace(PLUGIN, score=lambda item, answer: {"reward": np.float32(0.5), "right": np.bool_(True), "n": 3})
    (metrics,) = score(scorer, [ITEM], ["text"], 1.0)
    assert metrics == {"reward": 0.5, "right": 1.0, "n": 3.0}
    assert {type(value) for value in metrics.values()} == {float}


def test_truncated_parquet_is_named(tmp_path):
    path = tmp_path / "items.parquet"
    columns = {"item_id": [0], "prompt": ["a"], "reference": ["b"], "group": [""]}
    parquet.write(path, columns, parquet.ITEMS, {})
    assert parquet.read([path], parquet.ITEMS).to_pylist()[0]["prompt"] == "a"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PipelineError, match=r"items.parquet is not a complete Parquet file"):
        parquet.read([path], parquet.ITEMS)
    with pytest.raises(PipelineError, match="is missing"):
        parquet.read([tmp_path / "none.parquet"], parquet.ITEMS)
