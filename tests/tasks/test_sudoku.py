"""Puzzles, their solutions and the scorer."""

import hashlib

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks.generators.sudoku_grids import solutions
from pipeline.tasks.sudoku import PLUGIN, Sudoku, items, puzzle_of, render, score
from tests.conftest import task_of

SETTINGS = Sudoku(base_items=300, train_items=300, test_items=50, hard_items=20)
HELD_OUT = ("test", "hard", "validation")


def completions(puzzle: str) -> list[str]:
    """All valid grids that keep the givens, by backtracking."""
    if "0" not in puzzle:
        return [puzzle]
    cell = puzzle.index("0")
    row, column = divmod(cell, 4)
    peers = {
        puzzle[other]
        for other in range(16)
        if other // 4 == row or other % 4 == column or (other // 8 == cell // 8 and other % 4 // 2 == cell % 4 // 2)
    }
    digits = [digit for digit in "1234" if digit not in peers]
    return [grid for digit in digits for grid in completions(puzzle[:cell] + digit + puzzle[cell + 1 :])]


@pytest.fixture(scope="module")
def splits():
    return items(SETTINGS, seed=3)


def test_there_are_288_solutions():
    assert sorted("".join(map(str, grid)) for grid in solutions()) == sorted(completions("0" * 16))


def test_puzzles_are_distinct_unique_and_held_out(splits):
    held_out = [item.prompt for split in HELD_OUT for item in splits[split]]
    train = [item.prompt for item in splits["train"]]
    assert len(set(held_out)) == 70 and len(set(train)) == 300
    assert not set(held_out) & (set(train) | {item.prompt for item in splits["base"]})
    for item in (*splits["test"], *splits["hard"], *splits["train"][:50]):
        assert completions(item.prompt[:16]) == [item.reference]
    assert {item.prompt.count("0") for item in splits["test"]} == {8}
    assert {item.prompt.count("0") for item in splits["hard"]} == {10, 11}


def test_more_puzzles_than_there_are():
    """With one blank there are 288 x 16 of them, each with one solution."""
    one_blank = SETTINGS.model_copy(update={"train_blanks": (1, 1)})
    every = items(one_blank.model_copy(update={"train_items": 4608}), seed=3)["train"]
    assert len({item.prompt for item in every}) == 4608
    with pytest.raises(PipelineError, match="4609 puzzles with 1 to 1 blanks are wanted, but there are only 4608"):
        items(one_blank.model_copy(update={"train_items": 4609}), seed=3)


def test_a_validation_split_changes_neither_test_nor_hard_puzzles(splits):
    """Nor does any puzzle of it occur where the models learn."""
    more = SETTINGS.model_copy(update={"validation_items": 200, "base_items": 3000})
    found = items(more, seed=3)
    assert (found["test"], found["hard"], len(found["validation"])) == (splits["test"], splits["hard"], 200)
    assert {item.prompt.count("0") for item in found["validation"]} == {8}
    held_out = {item.prompt for split in HELD_OUT for item in found[split]}
    assert len(held_out) == 270 and not held_out & {item.prompt for item in (*found["base"], *found["train"])}


def test_base_answers_keep_givens_rows_and_one_box_only(splits):
    solved = 0
    for item in splits["base"]:
        assert all(given in ("0", cell) for given, cell in zip(item.prompt, item.reference, strict=False))
        assert all(sorted(item.reference[row : row + 4]) == list("1234") for row in range(0, 16, 4))
        assert sorted(item.reference[cell] for cell in (0, 1, 4, 5)) == list("1234")
        solved += score(item, item.reference)["grid_accuracy"] == 1
    assert 0 < solved < 60  # right by chance only


def test_same_seed_same_items_other_seed_other_items(splits):
    assert items(SETTINGS, seed=3) == splits
    assert items(SETTINGS, seed=4)["test"] != splits["test"]


def test_score(splits):
    item = splits["test"][0]
    assert score(item, item.reference) == {"reward": 1.0, "cell_accuracy": 1.0, "grid_accuracy": 1.0}
    empty, given = item.prompt.index("0"), next(i for i in range(16) if item.prompt[i] != "0")

    def changed(cell: int) -> str:
        digit = "1" if item.reference[cell] != "1" else "2"
        return item.reference[:cell] + digit + item.reference[cell + 1 :]

    assert score(item, changed(empty)) == {"reward": 7 / 8, "cell_accuracy": 7 / 8, "grid_accuracy": 0.0}
    assert score(item, changed(given))["reward"] == 0.0
    assert score(item, item.reference[:-1])["reward"] == 0.0
    assert score(item, "")["reward"] == 0.0


def test_any_valid_completion_counts():
    puzzle = "0" * 12 + "1234" + ">"
    item = type("Item", (), {"prompt": puzzle})()
    assert {score(item, grid)["grid_accuracy"] for grid in completions(puzzle[:16])} == {1.0}


def test_render(splits):
    item = splits["test"][0]
    assert render(item, item.reference).replace(" ", "").replace("\n", "") == item.reference
    assert render(item, "12").count("·") == 14


def test_plugin_alphabet_covers_everything(splits):
    assert set("".join(item.prompt + item.reference for split in splits.values() for item in split)) <= set(
        PLUGIN.alphabet
    )


def test_generated_items_never_change(splits):
    """Results of earlier versions stay comparable."""
    plain = repr(
        {name: [(i.prompt, i.reference, i.group) for i in splits[name]] for name in sorted(splits) if splits[name]}
    )
    assert hashlib.sha256(plain.encode()).hexdigest()[:16] == "c1f61d5fa63cf10e"
    defaults = task_of("sudoku")
    assert (defaults.score, defaults.answer_length, defaults.alphabet) == (score, 16, "01234>")


def test_longer_answers_are_filled_with_ends(splits):
    """Only a base of longer answers knows the end token; what stands before the first end is the answer."""
    task, grid = task_of("sudoku"), splits["test"][0].reference
    assert [task.characters(lengths) for lengths in ((), (16,), (16, 32))] == ["01234>", "01234>", "01234>."]
    assert [task.filled(grid, length) for length in (16, 20)] == [grid, grid + "...."]
    assert [task.shown(text) for text in (grid, grid + "....", grid + ".12.", "..12")] == [grid, grid, grid, ""]
    assert task.score(splits["test"][0], task.shown(grid + "...."))["reward"] == 1.0
    assert task_of("sudoku", template="chat").end == ""


def test_chat_prompts_hold_the_same_puzzles(splits):
    chat = items(SETTINGS.model_copy(update={"template": "chat"}), seed=3)
    for name, of_split in splits.items():
        assert [puzzle_of(item.prompt) for item in chat[name]] == [item.prompt[:16] for item in of_split]
        assert [item.reference for item in chat[name]] == [item.reference for item in of_split]
