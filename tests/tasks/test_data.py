"""Data sets from files and from the Hub: one line for whatever is wrong, the published wording of the prompts."""

import csv
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PipelineError
from pipeline.plugins import load_task
from pipeline.settings.run import Run
from pipeline.workflow import rules as workflow

ROWS = {
    "countdown": [{"nums": [n, 2, 3], "target": n + 5} for n in range(1, 9)],
    "gsm8k": [{"question": f"{n} and 2?", "answer": f"Adding.\n#### {n + 2}"} for n in range(8)],
    "math500": [{"problem": f"What is {n}/2?", "answer": f"\\frac{{{n}}}{{2}}", "level": 3} for n in range(8)],
    "sudoku": [
        {"Puzzle": "1234341221434321".replace(digit, "0", count), "Solution": "1234341221434321"}
        for digit in "1234"
        for count in (1, 2)
    ],
}
QUESTION = {"countdown": "nums", "gsm8k": "question", "math500": "problem", "sudoku": "Puzzle"}


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def items(name: str, seed: int = 0, **settings):
    task = load_task(name)
    small = {"base_items": 5} if name in ("countdown", "sudoku") else {}
    return task.items(task.settings(**small, **settings), seed)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("name", list(ROWS))
def test_formats_agree(name, suffix, tmp_path):
    train, test = write(tmp_path / f"x.{suffix}", ROWS[name][:6]), write(tmp_path / f"y.{suffix}", ROWS[name][6:])
    splits = items(name, data={"path": str(train), "test_path": str(test)})
    reference = items(
        name,
        data={
            "path": str(write(tmp_path / "a.jsonl", ROWS[name][:6])),
            "test_path": str(write(tmp_path / "b.jsonl", ROWS[name][6:])),
        },
    )
    assert splits == reference
    assert (len(splits["train"]), len(splits["test"]), splits["validation"]) == (6, 2, []) and splits["base"]


@pytest.mark.parametrize("name", list(ROWS))
def test_test_split(name, tmp_path):
    """From a column, else held out by the seed; in the order of the rows."""
    path = write(
        tmp_path / "all.jsonl", [{**row, "split": "test" if i > 5 else "train"} for i, row in enumerate(ROWS[name])]
    )
    assert len(items(name, data={"path": str(path)})["test"]) == 2
    path = write(tmp_path / "all.jsonl", ROWS[name])
    drawn = [items(name, seed, data={"path": str(path), "test_items": 3}) for seed in (0, 0, 1)]
    assert [len(drawn[0][split]) for split in ("train", "test")] == [5, 3]
    assert drawn[0] == drawn[1] and drawn[0]["test"] != drawn[2]["test"]


def test_countdown_puzzles_are_held_out_in_any_order(tmp_path):
    train = write(tmp_path / "train.jsonl", [{"nums": [3, 4, 5], "target": 23}])
    test = write(tmp_path / "test.jsonl", [{"input": "5,4,3", "output": "23"}])
    with pytest.raises(PipelineError, match="occurs in the training split too"):
        items("countdown", data={"path": str(train), "test_path": str(test)})
    write(train, [{"nums": [3, 4, 5], "target": 23}, {"nums": [3, 4, 5], "target": 12}])
    kept = items("countdown", data={"path": str(train), "test_path": str(test), "overlap": "drop"})
    assert [item.reference for item in kept["train"]] == ["[[3, 4, 5], 12]"]


def test_settings_name_one_source():
    for data in ({}, {"hub": "a/b", "path": "x.jsonl"}):
        with pytest.raises(ValueError, match="either hub"):
            load_task("gsm8k").settings(data=data)


def test_hub(monkeypatch):
    """Its splits, or held-out rows where it has no test split; repeated rows are one item; failures are one line."""
    asked = []

    def loaded(splits):
        return lambda hub, config: asked.append((hub, config)) or splits

    rows = ROWS["gsm8k"]
    monkeypatch.setattr(datasets, "load_dataset", loaded({"train": rows[:6] + rows[:2], "test": rows[6:]}))
    splits = items("gsm8k")
    assert asked == [("openai/gsm8k", "main")]
    assert (len(splits["train"]), len(splits["test"])) == (6, 2)
    monkeypatch.setattr(datasets, "load_dataset", loaded({"train": ROWS["countdown"]}))
    splits = items("countdown", data={"hub": "Jiayi-Pan/Countdown-Tasks-3to4", "test_items": 2})
    assert (len(splits["train"]), len(splits["test"])) == (6, 2)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: (_ for _ in ()).throw(ConnectionError("no\nroute")))
    with pytest.raises(PipelineError, match=r"cannot load 'openai/gsm8k' .*give its file as task.data.path"):
        items("gsm8k")


def test_prompts_are_the_published_ones(tmp_path):
    """Training and evaluation are worded differently, Sudoku alike."""
    train, test = {}, {}
    for name, rows in ROWS.items():
        path = write(tmp_path / f"{name}.jsonl", rows)
        splits = items(name, template="chat", data={"path": str(path), "test_items": 1})
        train[name], test[name] = splits["train"][0].prompt, splits["test"][0].prompt
    respond = "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"
    assert train["gsm8k"] == respond + "\n\n0 and 2?"
    assert train["math500"].startswith(respond + "\n\nYou are a math expert. You will be given a question to solve.")
    assert train["countdown"].startswith(
        respond + "\nUsing only the numbers [1, 2, 3], create an arithmetic expression"
    )
    assert train["countdown"].endswith("a valid answer is: <answer>\n2*4-3\n</answer>")
    assert (
        test["gsm8k"].startswith("You are a math expert.") and "<answer>\n\\boxed{...}\n</answer>\n\n" in test["gsm8k"]
    )
    assert '</answer>" \n\n\nWhat is ' in test["math500"]
    assert "inside \\boxed{} tags" in test["countdown"] and "\n\nNumbers: [" in test["countdown"]
    assert "\n\n\nSolve the following Sudoku puzzle: " in train["sudoku"] and "(" not in train["sudoku"]


def test_changed_files_are_seen_by_the_workflow(tmp_path):
    """Their content, not their time; a file that is missing is reported by the stage."""

    def digest(**data):
        return workflow.data(Run(task={"name": "gsm8k", "data": data}))

    path = write(tmp_path / "x.jsonl", ROWS["gsm8k"])
    before = digest(path=str(path))
    path.touch()
    assert digest(path=str(path)) == before != digest(path=str(path), test_path=str(path))
    write(path, ROWS["gsm8k"][1:])
    assert digest(path=str(path)) != before
    assert digest(path=str(tmp_path / "none.jsonl")) == "missing"
    assert digest(hub="a/b") == workflow.data(Run()) == ""
