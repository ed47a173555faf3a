"""A column with a value that is missing or impossible is refused in one line that names file and row."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PipelineError
from pipeline.storage import parquet

ROWS: dict[str, list] = {
    "round": [1, 1],
    "prompt_id": [0, 0],
    "state_id": [0, 0],
    "sample_id": [0, 1],
    "prompt_tokens": [[1], [1]],
    "start": [[3, 3], [3, 3]],
    "tokens": [[1, 0], [2, 1]],
    "unmask_step": [[0, -1], [1, 0]],
    "log_prob": [[-1.0, 0.0], [-2.0, -0.5]],
    "reward": [0.0, 1.0],
}


LIMITS = {"round": range(1, 2), "state_id": range(2), "sample_id": range(2)}


def read(path: Path, **changes: list):
    parquet.write(path, ROWS | changes, parquet.ROLLOUTS, {})
    return parquet.read([path], parquet.ROLLOUTS, completions=2, vocabulary=range(4), limits=LIMITS)


def test_what_is_written_is_read(tmp_path):
    table = read(tmp_path / "x")
    assert table.to_pydict() == ROWS
    parquet.write(tmp_path / "y", ROWS | {"prompt_tokens": [[1], [1, 2]]}, parquet.ROLLOUTS, {})
    table = parquet.read([tmp_path / "y"], parquet.ROLLOUTS)
    assert parquet.lengths(table, "prompt_tokens") == [1, 2]
    assert np.array_equal(parquet.matrix(table, "prompt_tokens", fill=9), [[9, 1], [1, 2]])
    with pytest.raises(PipelineError, match="lengths"):
        parquet.matrix(table, "prompt_tokens")


def test_items_of_earlier_versions_have_no_source(tmp_path):
    """Their files, without the column, are read; those that lack another are not."""
    columns = {name: [0] if name == "item_id" else [name] for name in parquet.ITEMS.names}
    parquet.write(tmp_path / "x", columns, parquet.ITEMS, {})
    table = parquet.read([tmp_path / "x"], parquet.ITEMS)
    assert table.to_pydict() == columns
    pq.write_table(table.drop_columns("source"), tmp_path / "x")
    assert parquet.read([tmp_path / "x"], parquet.ITEMS).to_pydict() == columns | {"source": [""]}
    pq.write_table(table.drop_columns("start"), tmp_path / "x")
    with pytest.raises(PipelineError, match="does not have the columns of 'items/2'"):
        parquet.read([tmp_path / "x"], parquet.ITEMS)


def test_answers_of_different_lengths(tmp_path):
    """Those of a state have one length."""
    longer = {"start": [[3] * 3] * 2, "tokens": [[1, 2, 0]] * 2, "unmask_step": [[0, -1, 2]] * 2}
    longer |= {"log_prob": [[-1.0] * 3] * 2, "state_id": [1, 1]}
    both = {name: ROWS[name] + longer.get(name, ROWS[name]) for name in ROWS}
    table = read(tmp_path / "x", **both)
    assert table.to_pydict() == both
    tokens = parquet.matrix(table, "tokens", fill=9, side="right")
    assert np.array_equal(tokens, [[1, 0, 9], [2, 1, 9], [1, 2, 0], [1, 2, 0]])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("reward", [0.0, None], "reward is None"),
        ("reward", [0.0, -np.inf], "reward is -inf, not a finite number"),
        ("log_prob", [[-1.0, 0.0], [-2.0, np.nan]], "log_prob is nan, not a finite number"),
        ("log_prob", [[-1.0, 0.0], [-2.0, None]], "log_prob is None"),
        ("tokens", [[1, 0], None], "tokens is None"),
        ("tokens", [[1, 0], [2, None]], "tokens is None"),
        ("tokens", [[1, 0], [2]], "tokens has 1 values, but start 2"),
        ("log_prob", [[-1.0, 0.0], []], "log_prob has 0 values, but must have some"),
        ("tokens", [[1, 0], [2, 4]], "tokens is 4, not a token id"),
        ("start", [[3, 0], [-1, 3]], "start is -1, not a token id"),
        ("prompt_tokens", [[1], [1, 2, 9]], "prompt_tokens is 9, not a token id"),
        ("prompt_tokens", [[], None], "prompt_tokens is None"),
        ("unmask_step", [[0, -1], [2, 0]], "unmask_step is 2, not one of -1 … 1"),
        ("unmask_step", [[0, -1], [0, -2]], "unmask_step is -2, not one of -1 … 1"),
        ("sample_id", [0, None], "sample_id is None"),
        ("sample_id", [0, 2], "sample_id is 2, not one of 0 … 1"),
        ("sample_id", [0, 0], "sample_id is 0: the completions of state 0 of round 1 are not the samples 0 … 1"),
        ("round", [1, 2], "round is 2, not 1"),
        ("round", [1, 0], "round is 0, not 1"),
        ("state_id", [0, 2], "state_id is 2, not one of 0 … 1"),
        ("log_prob", [[-1.0, 0.0], [-2.0, 0.5]], "log_prob is 0.5, not the logarithm of a probability"),
        ("prompt_id", [0, 1], "prompt_id differs from that of the other rows of state 0 of round 1"),
        ("prompt_tokens", [[1], [2]], "prompt_tokens differs from that of the other rows of state 0 of round 1"),
        ("prompt_tokens", [[1], [1, 1]], "prompt_tokens differs from that of the other rows of state 0 of round 1"),
        ("start", [[3, 3], [3, 0]], "start differs from that of the other rows of state 0 of round 1"),
    ],
)
def test_the_row_is_named(tmp_path, name, values, message):
    with pytest.raises(PipelineError, match=rf"^{tmp_path}/x, row 1: {message}"):
        read(tmp_path / "x", **{name: values})


def test_log_probabilities_may_round_to_above_0(tmp_path):
    assert read(tmp_path / "x", log_prob=[[-1.0, 1e-6], [-2.0, 0.0]]).num_rows == 2


def test_a_row_is_named_by_its_own_file(tmp_path):
    """The completions of a state in two files, in any order."""
    halves = [{name: values[row : row + 1] for name, values in ROWS.items()} for row in (1, 0)]
    paths = [tmp_path / "1", tmp_path / "0"]
    for path, half in zip(paths, halves, strict=True):
        parquet.write(path, half, parquet.ROLLOUTS, {})
    assert parquet.read(paths, parquet.ROLLOUTS, completions=2).column("sample_id").to_pylist() == [1, 0]
    parquet.write(paths[0], halves[0] | {"start": [[3, 2]]}, parquet.ROLLOUTS, {})
    with pytest.raises(PipelineError, match=rf"^{tmp_path}/1, row 0: start differs"):
        parquet.read(paths, parquet.ROLLOUTS, completions=2)


def targets(path: Path, rounds: list[int], samples: list[int]):
    """What round 2 would read from targets of these rounds and samples."""
    count = len(rounds)
    columns = {name: [values[0]] * count for name, values in ROWS.items()} | {"round": rounds, "sample_id": samples}
    columns |= dict.fromkeys(("log_ratio", "step", "spent", "log_weight", "weight"), [0.0] * count)
    parquet.write(path, columns, parquet.TARGETS, {})
    return parquet.read_targets(path, 2, 2, range(4))


@pytest.mark.parametrize(
    ("rounds", "samples", "message"),
    [
        ([1, 1, 3, 3], [0, 1, 0, 1], ", row 2: round is 3, not one of 1 … 2"),
        ([1, 1], [0, 1], " has no row of round 2"),
        ([1, 1, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1], ": state 0 of round 1 has 4 completions, not 2"),
        ([1, 1, 2, 2], [0, 0, 0, 1], ", row 1: sample_id is 0: the completions of state 0 of round 1 are not the"),
        ([1, 1, 2, 2], [0, 1, 1, 0], ", row 2: the rows are not in the order of round, state and sample"),
        ([1, 2, 1, 2], [0, 0, 1, 1], ", row 1: the rows are not in the order of round, state and sample"),
    ],
)
def test_kept_targets_stand_once_and_in_order(tmp_path, rounds, samples, message):
    assert targets(tmp_path / "x", [1, 1, 2, 2], [0, 1, 0, 1]).num_rows == 4
    with pytest.raises(PipelineError, match=rf"^{tmp_path}/x{message}"):
        targets(tmp_path / "x", rounds, samples)


def test_empty_prompts_and_files(tmp_path):
    assert read(tmp_path / "x", prompt_tokens=[[], []]).num_rows == 2
    nothing: dict[str, list] = {name: [] for name in ROWS}
    with pytest.raises(PipelineError, match="x has no rows"):
        read(tmp_path / "x", **nothing)
    table = parquet.read([tmp_path / "x"], parquet.ROLLOUTS, may_be_empty=True, completions=2, vocabulary=range(4))
    assert table.num_rows == 0


def test_columns_of_tokens_have_one_length(tmp_path):
    with pytest.raises(PipelineError, match="x, row 0: tokens has 1 values, but start 2"):
        read(tmp_path / "x", tokens=[[1], [2]])
