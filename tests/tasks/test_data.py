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
from pipeline.tasks.data_files import read_file
from pipeline.workflow import made_with

CASES = Path(__file__).parent / "cases"
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


def rejected(name: str, path: Path, **data) -> str:
    """The error of reading this file as a data set with a test split."""
    with pytest.raises(PipelineError) as error:
        items(name, data={"path": str(path), "test_items": 1, **data})
    return str(error.value).replace(f"{path.parent}/", "")


def each_row(case: str, tmp_path: Path):
    """Files with one row of a case each, and two more that are right."""
    for number, line in enumerate((CASES / case).read_text().splitlines()):
        name = case.split("_", maxsplit=1)[0].replace("math", "math500").replace("questions", "gsm8k")
        path = tmp_path / f"{number}.jsonl"
        path.write_text(line + "\n" + "".join(json.dumps(row) + "\n" for row in ROWS[name][2:4]))
        yield name, path


def test_references_of_gsm8k(tmp_path):
    """A number in any notation; nothing of which only a part is a number, and no column twice."""
    *plain, third, million, span, twice = each_row("gsm8k_references.jsonl", tmp_path)
    test = str(write(tmp_path / "test.jsonl", ROWS["gsm8k"][6:]))
    found = [items("gsm8k", data={"path": str(path), "test_path": test})["train"][0] for _, path in plain]
    assert [item.reference for item in found] == ["#### 2", "0.00005", "10000000000000000000000", "#### 1200000"]
    for (_, path), text in zip((third, million, span), ("3/4 cup", "2 million", "20-30"), strict=True):
        message = f"0.jsonl, line 1: answer must be a number or end in '#### number', not '{text}'"
        assert rejected("gsm8k", path).endswith(message.removeprefix("0"))
    assert "line 1: 'answer' and 'Answer' are the same column: remove or rename one" in rejected("gsm8k", twice[1])


def test_references_of_math(tmp_path, capsys):
    """From the solution if there is no answer; without either a training row is left out, and a test row an error."""
    paths = [path for _, path in each_row("math_references.jsonl", tmp_path)]
    test = write(tmp_path / "test.jsonl", ROWS["math500"][6:])
    read = {
        number: [item.reference for item in items("math500", data={"path": str(path), "test_path": str(test)})["train"]]
        for number, path in enumerate(paths)
        if number not in (3, 4)
    }
    others = [row["answer"] for row in ROWS["math500"][2:4]]
    assert read == {0: ["2", *others], 1: others, 2: ["3", *others], 5: ["5", *others], 6: ["0.00005", *others]}
    assert "1 row left out: without an answer, first " in capsys.readouterr().out
    assert "3.jsonl, line 1: answer must be a text or a finite number, not nan" in rejected("math500", paths[3])
    assert "4.jsonl, line 1: answer must be a text or a number, not ['5']" in rejected("math500", paths[4])
    assert "1.jsonl, line 1: no answer, and no box in the solution" in rejected(
        "math500", test, test_path=str(paths[1])
    )


def test_questions_are_texts(tmp_path):
    (_, right), *wrong = each_row("questions_no_text.jsonl", tmp_path)
    assert items("gsm8k", data={"path": str(right), "test_items": 1})
    for _, path in wrong:
        assert "line 1: question must be a text, not " in rejected("gsm8k", path)


@pytest.mark.parametrize("value", [True, b"5", [1], {"a": 1}, float("inf"), "\ud800"])
@pytest.mark.parametrize("name", ["gsm8k", "math500"])
def test_values_that_are_no_texts(name, value, tmp_path):
    """In a question or an answer; bytes come from Parquet only, lone surrogates from JSON only."""
    for column in ("answer", QUESTION[name]):
        suffix = "parquet" if isinstance(value, bytes) else "jsonl"
        path = write(tmp_path / f"x.{suffix}", [{**ROWS[name][0], column: value}])
        message = rejected(name, path)
        assert column in message or "surrogates not allowed" in message


def test_repeated_rows(tmp_path, capsys):
    """Of training rows the first stays and the others are counted; a repeated test row is an error."""
    path = CASES / "countdown_repeated.jsonl"
    found = items("countdown", data={"path": str(path), "test_items": 1})
    assert sorted(item.reference for split in ("train", "test") for item in found[split]) == [
        "[[1, 2, 3], 6]",
        "[[2, 2, 3], 7]",
        "[[3, 2, 3], 8]",
    ]
    assert f"1 row left out: repeated, first {path}, line 4" in capsys.readouterr().out
    train = write(tmp_path / "train.jsonl", ROWS["countdown"][3:])
    assert "line 4: duplicate item '[[1, 2, 3], 6]'" in rejected("countdown", train, test_path=str(path))


def test_two_columns_of_one_name(tmp_path):
    """Whatever the capitals and spaces, in every kind of file."""
    row = ROWS["gsm8k"][0]
    for suffix in ("jsonl", "csv", "parquet"):
        path = write(tmp_path / f"x.{suffix}", [{**row, " Answer ": "#### 7"}])
        assert "are the same column: remove or rename one" in rejected("gsm8k", path)
    path = tmp_path / "y.csv"
    path.write_text("question,answer,answer\na?,#### 1,#### 2\n")
    assert "y.csv, line 1: 'answer' and 'answer' are the same column" in rejected("gsm8k", path)
    path = tmp_path / "y.jsonl"
    path.write_text('{"question": "a?", "answer": "#### 1", "answer": "#### 2"}\n')
    assert "y.jsonl, line 1: is not JSON (a key occurs twice)" in rejected("gsm8k", path)
    path.write_text("[" * 100_000)
    assert "y.jsonl, line 1: is not JSON (maximum recursion depth exceeded" in rejected("gsm8k", path)


def test_names_that_no_file_can_have():
    with pytest.raises(PipelineError, match=r"task.data: cannot read x{300}.jsonl: File name too long"):
        read_file(Path("x" * 300 + ".jsonl"))
    with pytest.raises(PipelineError, match=r"is missing"):
        read_file(Path("a\0.jsonl"))


def test_changed_files_are_seen_by_the_workflow(tmp_path):
    """Their content, not their time; a file that is missing is reported by the stage."""

    def digest(**data):
        return made_with.data(Run(task={"name": "gsm8k", "data": data}))

    path = write(tmp_path / "x.jsonl", ROWS["gsm8k"])
    before = digest(path=str(path))
    path.touch()
    assert digest(path=str(path)) == before != digest(path=str(path), test_path=str(path))
    write(path, ROWS["gsm8k"][1:])
    assert digest(path=str(path)) != before
    assert digest(path=str(tmp_path / "none.jsonl")) == digest(path="x" * 300) == "missing"
    assert digest(hub="a/b") == made_with.data(Run()) == ""
