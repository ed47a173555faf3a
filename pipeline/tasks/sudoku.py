"""4×4 Sudoku: fill a puzzle so that every row, column and 2×2 box holds 1, 2, 3, 4.

A puzzle is 16 characters in row-major order, "0" where empty. With the template `compact`, the prompt is the puzzle and
a separator, and the answer the 16 digits of the grid, padded with ends if it is longer; with `chat` it is d1's prompt.
Generated puzzles have exactly one solution. The answers of the *base* split keep the givens, and every row and the
first box is a permutation; the other rules have to be learnt from the reward.
"""

import re
from dataclasses import replace

import numpy as np
from pydantic import Field, model_validator

from pipeline.tasks.base import HELD_OUT, Item, Saved, Task, hold_out
from pipeline.tasks.chat import PuzzleSettings, chat_task
from pipeline.tasks.data import RowFormat, load_splits
from pipeline.tasks.data_files import Row
from pipeline.tasks.generators import sudoku_grids as grids
from pipeline.tasks.generators.sudoku_grids import CELLS, compact_item
from pipeline.tasks.parsing.answers import before_stop, d1_grid, tagged, unfenced, without_stops

TEMPLATES = {
    "chat": (
        "\nPlease solve the following 4x4 Sudoku puzzle. The puzzle is provided as a 16-character string reading"
        " left-to-right, top-to-bottom, where '0' represents empty cells.\n\nRules:\n- Fill empty cells with digits 1-4"
        "\n- Each row must contain digits 1-4 exactly once\n- Each column must contain digits 1-4 exactly once\n"
        "- Each 2x2 box must contain digits 1-4 exactly once\n\nImportant: Your solution must be a COMPLETE"
        " 16-character string with only the digits 1-4, representing your final solved grid.\n\n"
        "Respond in this exact format:\n<reasoning>\nYour step-by-step solving process\n</reasoning>\n<answer>\n"
        "[16-character solution string with no spaces or separators]\n</answer>\n\n\n"
        "Solve the following Sudoku puzzle: {puzzle}\n"
    ),
}
PUZZLE = re.compile(r"Sudoku puzzle: ([0-9]{16})")


class Sudoku(PuzzleSettings):
    """How many puzzles to generate and how many of their 16 cells are blank, or a data set; how they are scored."""

    hard_items: int = Field(default=256, ge=0)
    train_blanks: tuple[int, int] = (6, 10)
    test_blanks: tuple[int, int] = (8, 8)
    hard_blanks: tuple[int, int] = (10, 11)

    @model_validator(mode="after")
    def _ranges(self) -> "Sudoku":
        for name in ("train_blanks", "test_blanks", "hard_blanks"):
            low, high = getattr(self, name)
            if not 1 <= low <= high <= 12:
                raise ValueError(f"{name} must be [low, high] with 1 <= low <= high <= 12 (12 blanks leave 4 givens)")
        return self


def items(settings: Sudoku, seed: int) -> dict[str, list[Item]]:
    """The splits; no held-out puzzle occurs in the base or train split."""
    rng = np.random.default_rng([seed, 0x50D0])
    seen: set[str] = set()
    made: dict[str, list[Item]] = {}
    if settings.data:
        made = load_splits(settings.data, seed, RowFormat((("puzzle",), ("solution",)), _item))
        made["train"], made["validation"] = hold_out(made["train"], settings.validation_items)
        seen |= {puzzle_of(item.prompt) for split in HELD_OUT for item in made.get(split, ())}
    else:
        made["test"] = grids.unique_puzzles(settings.test_items, settings.test_blanks, seen, rng)
        made["hard"] = grids.unique_puzzles(settings.hard_items, settings.hard_blanks, seen, rng)
        made["validation"] = grids.unique_puzzles(settings.validation_items, settings.test_blanks, seen, rng)
    made["base"] = grids.partly_consistent(settings.base_items, settings.train_blanks, seen, rng)
    if not settings.data:
        made["train"] = grids.unique_puzzles(settings.train_items, settings.train_blanks, seen, rng)
    if settings.template == "compact":
        return made
    template = TEMPLATES["chat"]
    return {
        split: [replace(item, prompt=template.format(puzzle=puzzle_of(item.prompt))) for item in items]
        for split, items in made.items()
    }


def puzzle_of(prompt: str) -> str:
    """The puzzle in a prompt. ValueError if there is none."""
    found = re.match(r"(\d{16})", prompt) or PUZZLE.search(prompt)
    if not found:
        raise ValueError("no puzzle: 16 digits, or 'Sudoku puzzle: ' and 16 digits")
    return found[1]


def score(item: Item, answer: str) -> dict[str, float]:
    """The share of blank cells that are right (reward, cell_accuracy) and whether all are (grid_accuracy).

    The answer is compared to the valid completion of the puzzle that it agrees with most. An answer that changes a
    given or is not 16 cells long scores 0.
    """
    puzzle = np.array([int(c) for c in item.prompt[:CELLS]])
    cells = np.array([int(c) if c.isdecimal() else -1 for c in answer])
    blank = puzzle == 0
    if cells.shape != (CELLS,) or (cells != puzzle)[~blank].any():
        return {"reward": 0.0, "cell_accuracy": 0.0, "grid_accuracy": 0.0}
    completions = grids.solutions()[(grids.solutions() == puzzle)[:, ~blank].all(axis=1)]
    right = float((completions == cells)[:, blank].mean(axis=1).max(initial=0.0))
    return {"reward": right, "cell_accuracy": right, "grid_accuracy": float(right == 1.0)}


def score_strict(item: Item, answer: str) -> dict[str, float]:
    """`score` of the last closed `<answer>` of a chat answer."""
    given = unfenced(next(reversed(tagged(before_stop(answer))), ""))
    return score(replace(item, prompt=puzzle_of(item.prompt)), "".join(given.split()))


def score_d1(item: Item, answer: str) -> dict[str, float]:
    """As d1: the reward reads the digits in the last closed `<answer>`, the accuracy what `answers.d1_grid` finds."""
    given = next(reversed(tagged(without_stops(answer))), "")
    return _compare_d1(item, given, d1_grid(answer))


def score_d1_compact(item: Item, answer: str) -> dict[str, float]:
    """d1's comparison for a compact answer."""
    return _compare_d1(item, answer, "".join(answer.split()))


def _compare_d1(item: Item, given: str, grid: str) -> dict[str, float]:
    """As d1: the digits of `given` are compared to the one reference for the reward, `grid` for the accuracies.

    Both are padded with "0", or cut, to 16 characters.
    """
    puzzle, reference = puzzle_of(item.prompt), item.reference
    blank = [cell for cell in range(CELLS) if puzzle[cell] == "0"]

    def right(cells: str) -> float:
        padded = cells.ljust(CELLS, "0")
        return sum(padded[cell] == reference[cell] for cell in blank) / len(blank) if cells and blank else 0.0

    return {
        "reward": right("".join(filter(str.isdigit, given))),
        "cell_accuracy": right(grid),
        "grid_accuracy": float(_completes(grid[:CELLS], puzzle)),
    }


def _completes(grid: str, puzzle: str) -> bool:
    """Whether a grid is valid and keeps the givens of a puzzle."""
    return grid in grids.solution_texts() and all(
        given in ("0", cell) for given, cell in zip(puzzle, grid, strict=True)
    )


def render(item: Item, answer: str) -> str:
    """The answer as a 4×4 grid, with "·" for every character that is not 1 to 4."""
    cells = [c if c in "1234" else "·" for c in answer[:CELLS].ljust(CELLS)]
    return "\n".join(" ".join(cells[row : row + 4]) for row in range(0, CELLS, 4))


def _item(row: Row) -> Item:
    puzzle, solution = str(row["puzzle"]).strip(), str(row["solution"]).strip()
    if not re.fullmatch("[0-4]{16}", puzzle) or "0" not in puzzle:
        raise ValueError(f"Puzzle must be 16 digits 0-4, at least one of them 0, not {puzzle!r}")
    if not _completes(solution, puzzle):
        raise ValueError(f"Solution {solution!r} does not solve {puzzle!r}")
    return compact_item(puzzle, solution)


def saved_item(question: str, reference: object) -> Item:
    """An item from its solution and a question that is the puzzle or contains it."""
    if not isinstance(reference, str) or len(reference.strip()) < CELLS:
        raise ValueError(f"reference must be the 16 digits of the solution, not {reference!r}")
    return replace(compact_item(puzzle_of(question), reference.strip()), prompt=question)


def configured(settings: Sudoku) -> Task[Sudoku]:
    """The task with everything that its settings determine."""
    saved = Saved(saved_item, "cell_accuracy", cells=lambda item: puzzle_of(item.prompt).count("0"))
    task = chat_task(settings, items, {"d1": score_d1, "strict": score_strict}, saved, configured)
    if settings.template == "chat":
        return task
    compact = replace(task, alphabet="01234" + grids.SEPARATOR, answer_length=CELLS, end=grids.END, render=render)
    return replace(compact, score=score_d1_compact if settings.profile == "d1" else score)


PLUGIN = configured(Sudoku())
