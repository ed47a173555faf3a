"""A column with a value that is missing or impossible is refused in one line that names file and row."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.storage import parquet

ROWS: dict[str, list] = {
    "round": [1, 1],
    "prompt_id": [0, 0],
    "state_id": [0, 0],
    "sample_id": [0, 1],
    "prompt_tokens": [[1], [1, 2]],
    "start": [[3, 0], [3, 3]],
    "tokens": [[1, 0], [2, 1]],
    "unmask_step": [[0, -1], [1, 0]],
    "log_prob": [[-1.0, 0.0], [-2.0, -0.5]],
    "reward": [0.0, 1.0],
}


def read(path: Path, **changes: list):
    parquet.write(path, ROWS | changes, parquet.ROLLOUTS, {})
    return parquet.read([path], parquet.ROLLOUTS, completions=2, vocabulary=range(4))


def test_what_is_written_is_read(tmp_path):
    table = read(tmp_path / "x")
    assert table.to_pydict() == ROWS
    assert parquet.lengths(table, "prompt_tokens") == [1, 2]
    assert np.array_equal(parquet.matrix(table, "prompt_tokens", fill=9), [[9, 1], [1, 2]])
    with pytest.raises(PipelineError, match="lengths"):
        parquet.matrix(table, "prompt_tokens")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("reward", [0.0, None], "reward is None"),
        ("reward", [0.0, -np.inf], "reward is -inf, not a finite number"),
        ("log_prob", [[-1.0, 0.0], [-2.0, np.nan]], "log_prob is nan, not a finite number"),
        ("log_prob", [[-1.0, 0.0], [-2.0, None]], "log_prob is None"),
        ("tokens", [[1, 0], None], "tokens is None"),
        ("tokens", [[1, 0], [2, None]], "tokens is None"),
        ("tokens", [[1, 0], [2]], "the length of tokens is 1, not 2"),
        ("tokens", [[1, 0], [2, 4]], "tokens is 4, not a token id"),
        ("start", [[3, 0], [-1, 3]], "start is -1, not a token id"),
        ("prompt_tokens", [[1], [1, 2, 9]], "prompt_tokens is 9, not a token id"),
        ("prompt_tokens", [[], None], "prompt_tokens is None"),
        ("unmask_step", [[0, -1], [2, 0]], "unmask_step is 2, not one of -1 … 1"),
        ("unmask_step", [[0, -1], [0, -2]], "unmask_step is -2, not one of -1 … 1"),
        ("sample_id", [0, None], "sample_id is None"),
    ],
)
def test_the_row_is_named(tmp_path, name, values, message):
    with pytest.raises(PipelineError, match=rf"^{tmp_path}/x, row 1: {message}"):
        read(tmp_path / "x", **{name: values})


def test_empty_prompts_and_files(tmp_path):
    assert read(tmp_path / "x", prompt_tokens=[[], []]).num_rows == 2
    nothing: dict[str, list] = {name: [] for name in ROWS}
    with pytest.raises(PipelineError, match="x has no rows"):
        read(tmp_path / "x", **nothing)
    table = parquet.read([tmp_path / "x"], parquet.ROLLOUTS, may_be_empty=True, completions=2, vocabulary=range(4))
    assert table.num_rows == 0
