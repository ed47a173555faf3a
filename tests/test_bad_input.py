"""Bad data, stored rows and checkpoints: the stage stops with one line that names the file and the row.

Bad settings are tested in settings/test_params_file.py, bad plug-ins in stages/test_users_code.py, full and
read-only disks in test_faults.py and workflow/test_working_directory.py.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], object]
ONE, TWO = ({"question": f"{number} and 2?", "answer": f"#### {number + 2}"} for number in (1, 2))


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("x.jsonl", None, "task.data: x.jsonl is missing"),
        ("x.txt", "", "task.data: x.txt must be one of .jsonl, .csv, .parquet"),
        ("x.jsonl", "", "task.data: x.jsonl has no rows"),
        ("x.csv", "question,answer\n", "task.data: x.csv has no rows"),
        ("x.parquet", "PAR1", "x.parquet is not a complete Parquet file"),
        ("x.csv", "question,answer\na,\ud800\n", "x.csv is not a CSV file: 'utf-8' codec can't decode"),
        ("x.csv", "question,answer\na,1,2\n", "x.csv, line 2: has more fields than the header"),
        ("x.jsonl", lines(ONE) + '{"question"\n', "x.jsonl, line 2: is not JSON"),
        ("x.jsonl", lines([]), "x.jsonl, line 1: is not a JSON object"),
        ("x.jsonl", lines({"Question": "a"}), "x.jsonl, line 1: the column answer is missing; found: question"),
        (
            "x.jsonl",
            lines(TWO, *[ONE | {"split": "test"}] * 2),
            "x.jsonl, line 3: duplicate item '1 and 2?', first in x.jsonl, line 2",
        ),
        ("x.jsonl", lines(ONE | {"id": 7}, TWO | {"id": 7}), "x.jsonl, line 2: duplicate id '7', first in x.jsonl"),
        (
            "x.jsonl",
            lines(ONE | {"answer": "six"}),
            "line 1: answer must be a number or end in '#### number', not 'six'",
        ),
        ("x.jsonl", lines(ONE | {"question": " "}), "x.jsonl, line 1: the question is empty"),
        ("x.jsonl", lines(ONE | {"split": "dev"}), "x.jsonl, line 1: split must be 'train' or 'test', not 'dev'"),
        ("x.jsonl", lines(ONE, TWO), "x.jsonl has 2 rows and no test split: give test_path, or a test_items"),
        ("x.jsonl", lines(ONE, ONE | {"split": "test"}), "line 2 occurs in the training split too, x.jsonl, line 1: "),
    ],
)
def test_data(line, stage, file, text, message):
    if text is not None:
        (stage.run.parent / file).write_bytes(text.encode(errors="surrogatepass"))
    assert message in line("prepare", task={"name": "gsm8k", "data": {"path": file}})


UNSOLVED = {"Puzzle": "2034341221434321", "Solution": "1234341221434321"}


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("countdown", {"nums": ["b", 2, 3], "target": 5}, "x.jsonl, line 1: 'b' is not a whole number"),
        ("countdown", {"nums": [1, 2, 3], "target": 2.5}, "x.jsonl, line 1: 2.5 is not a whole number"),
        ("countdown", {"nums": [1, 2], "target": 5}, "task.data: x.jsonl has no rows that this task can use"),
        ("math500", {"problem": "a", "solution": "so 5"}, "task.data: x.jsonl has no rows that this task can use"),
        ("sudoku", {"Puzzle": 234, "Solution": "1" * 16}, "x.jsonl, line 1: Puzzle must be 16 digits 0-4"),
        ("sudoku", UNSOLVED, "line 1: Solution '1234341221434321' does not solve '2034341221434321'"),
    ],
)
def test_rows_of_data(line, stage, task, row, message):
    """Each task checks the columns that it reads."""
    (stage.run.parent / "x.jsonl").write_text(lines(row))
    assert message in line("prepare", task={"name": task, "data": {"path": "x.jsonl"}})


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(**values: object) -> Damage:
    """Damage that changes values of a JSON object."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def renamed(old: str, new: str) -> Damage:
    return lambda path: path.write_text(path.read_text().replace(old, new))


def first(name: str, value: Callable[[list], object]) -> Damage:
    """Damage that changes the first value of a Parquet column."""

    def damage(path: Path) -> None:
        table = pq.read_table(path)
        place, (head, *rest) = table.schema.get_field_index(name), table.column(name).to_pylist()
        field = table.schema.field(place)
        pq.write_table(table.set_column(place, field, pa.array([value(head), *rest], field.type)), path)

    return damage


def rows(choose: Callable[[pa.Table], pa.Table]) -> Damage:
    return lambda path: pq.write_table(choose(pq.read_table(path)), path)


def not_a_number(path: Path) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file({name: torch.full_like(value, float("nan")) for name, value in tensors.items()}, path, metadata)


TRAIN, SHARD = "items/train.parquet", "round_001/rollouts/01.parquet"
REFERENCE = "round_001/references/01.parquet"
TARGETS, STATE = "round_002/targets/targets.parquet", "round_001/optimizer.safetensors"
POLICY = "round_000/policy"


@pytest.mark.parametrize(
    ("name", "file", "damage", "message"),
    [
        ("rollout", TRAIN, Path.unlink, f"run/{TRAIN} is missing"),
        ("rollout", TRAIN, halve, f"run/{TRAIN} is not a complete Parquet file"),
        ("rollout", TRAIN, rows(lambda table: table.slice(0, 0)), f"run/{TRAIN} has no rows"),
        (
            "rollout",
            TRAIN,
            rows(lambda table: table.drop_columns("group")),
            f"{TRAIN} does not have the columns of 'it",
        ),
        ("rollout", TRAIN, rows(lambda table: pa.table({"a": [1]})), f"{TRAIN} does not have the columns of 'items/"),
        ("rollout", TRAIN, first("prompt", lambda prompt: None), f"run/{TRAIN}, row 0: prompt is None"),
        ("adjoint", SHARD, first("tokens", lambda t: [None, *t[1:]]), f"run/{SHARD}, row 0: tokens is None"),
        (
            "adjoint",
            SHARD,
            first("reward", lambda reward: float("nan")),
            f"{SHARD}, row 0: reward is nan, not a finite",
        ),
        ("adjoint", SHARD, first("log_prob", lambda _: [float("nan")] * 16), f"{SHARD}, row 0: log_prob is nan"),
        (
            "adjoint",
            SHARD,
            first("tokens", lambda tokens: tokens[:-1]),
            f"{SHARD}, row 0: tokens has 15 values, but start 16",
        ),
        ("adjoint", SHARD, first("start", lambda ids: [99, *ids[1:]]), f"{SHARD}, row 0: start is 99, not a token"),
        ("adjoint", SHARD, first("tokens", lambda ids: [-1, *ids[1:]]), f"{SHARD}, row 0: tokens is -1, not a token"),
        (
            "adjoint",
            SHARD,
            first("unmask_step", lambda steps: [16, *steps[1:]]),
            f"{SHARD}, row 0: unmask_step is 16, not",
        ),
        ("adjoint", SHARD, rows(lambda table: table.slice(1)), "state 4 of round 1 has 3 completions, not 4"),
        ("adjoint", SHARD, lambda path: shutil.copy(path.with_name("00.parquet"), path), "has 8 completions, not 4"),
        ("adjoint", SHARD, first("round", lambda _: 2), f"run/{SHARD}, row 0: round is 2, not 1"),
        ("adjoint", SHARD, first("prompt_id", lambda item: item + 1), f"run/{SHARD}, row 1: prompt_id differs from"),
        ("adjoint", SHARD, first("log_prob", lambda values: [0.5, *values[1:]]), "row 0: log_prob is 0.5, not the log"),
        (
            "adjoint",
            REFERENCE,
            first("base_log_prob", lambda values: [2.0, *values[1:]]),
            "row 0: base_log_prob is 2.0",
        ),
        (
            "adjoint",
            REFERENCE,
            first("sample_id", lambda sample: sample ^ 1),
            "does not hold the 64 rows of this round",
        ),
        ("reference", "round_001/rollouts/00.parquet", first("round", lambda _: 3), "row 0: round is 3, not 1"),
        ("train", TARGETS, first("round", lambda _: 3), f"run/{TARGETS}, row 0: round is 3, not one of 1 … 2"),
        ("train", TARGETS, rows(lambda table: table.slice(0, 64)), f"run/{TARGETS} has no row of round 2"),
        ("train", TARGETS, rows(lambda table: pa.concat_tables([table.slice(0, 64), table])), "has 8 completions, not"),
        ("train", TARGETS, halve, f"run/{TARGETS} is not a complete Parquet file"),
        ("train", TARGETS, first("weight", lambda weight: float("inf")), f"{TARGETS}, row 0: weight is inf"),
        ("train", TARGETS, first("prompt_tokens", lambda ids: [2**31 - 1]), "row 0: prompt_tokens is 2147483647"),
        ("train", TARGETS, rows(lambda table: table.slice(1)), f"{TARGETS}: state 0 of round 1 has 3 comp"),
        ("train", STATE, Path.unlink, f"run/{STATE} is missing"),
        ("train", STATE, halve, f"run/{STATE} is not a complete safetensors file"),
        ("train", STATE, lambda path: save_file({}, path), f"run/{STATE} does not belong to this policy: see 'step."),
        ("train", "../out/train.checkpoint", lambda path: path.write_bytes(b"abc"), "checkpoint is not a complete"),
        ("report", "round_001/adjoint.json", halve, "cannot read run/round_001/adjoint.json"),
        ("report", "round_001/adjoint.json", Path.unlink, "cannot read run/round_001/adjoint.json"),
        ("report", "round_001/adjoint.json", lambda path: path.write_text("{}"), "adjoint.json has no 'reward_mean'"),
        ("report", "round_001/train.json", lambda path: path.write_text("[]"), "round_001/train.json has no 'losses'"),
        ("report", "timings/base.json", lambda path: path.write_text("{}"), "timings/base.json has no '"),
        ("rollout", POLICY, shutil.rmtree, f"'run/{POLICY}' is not a model directory of this project"),
        ("rollout", f"{POLICY}/config.json", halve, f"'run/{POLICY}' is not a model directory: cannot read its config"),
        (
            "rollout",
            f"{POLICY}/config.json",
            lambda path: path.write_text("[]"),
            "config.json (it is not a JSON object)",
        ),
        ("rollout", f"{POLICY}/config.json", changed(model_type="gpt2"), "holds the architecture 'gpt2', not 'llada'"),
        ("rollout", f"{POLICY}/config.json", changed(intermediate_size=32), f"'run/{POLICY}': mismatched keys: "),
        ("rollout", f"{POLICY}/config.json", changed(num_hidden_layers=2), f"'run/{POLICY}': missing keys: "),
        (
            "rollout",
            f"{POLICY}/config.json",
            changed(num_hidden_layers="two"),
            "num_hidden_layers: input should be a valid integer (got 'two')",
        ),
        ("rollout", f"{POLICY}/model.safetensors", halve, f"cannot load the weights in 'run/{POLICY}'"),
        ("rollout", f"{POLICY}/model.safetensors", Path.unlink, f"cannot load the weights in 'run/{POLICY}'"),
        ("rollout", f"{POLICY}/model.safetensors", not_a_number, f"'run/{POLICY}': the weights 'model."),
        ("rollout", f"{POLICY}/tokenizer.json", halve, f"run/{POLICY}/tokenizer.json is not a tokenizer"),
        ("rollout", f"{POLICY}/tokenizer.json", Path.unlink, f"run/{POLICY}/tokenizer.json is missing"),
        ("rollout", f"{POLICY}/tokenizer.json", renamed("[MASK]", "[M]"), f"run/{POLICY}/tokenizer.json has no [MASK]"),
    ],
)
def test_files(line, stage, name, file, damage, message):
    path = stage.run / file
    path.parent.mkdir(exist_ok=True)
    damage(path)
    assert message in line(name)


def test_base_that_is_not_there(line):
    """Neither a directory nor a valid name on the Hub."""
    found = line("base", base={"path": "no/such/place"})
    assert "'no/such/place' is neither a directory nor a model on the Hub" in found


def test_settings(line, stage, monkeypatch):
    """Snakemake validates params.yaml, but a stage can be called directly and checks its own settings."""
    assert "--settings: unknown key 'seeds': did you mean 'seed'?" in line("prepare", seeds=1)
    command = stage.command("prepare")
    command[2] = command[2][:-1]
    monkeypatch.setattr(stage, "command", lambda name: command)
    assert "--settings is not JSON" in line("prepare")
