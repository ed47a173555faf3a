"""4×4 Sudoku: fill a puzzle so that every row, column and 2×2 box holds 1, 2, 3, 4.

A puzzle is 16 characters in row-major order, "0" where empty; with the template `compact` the prompt is the puzzle
and a separator, the answer the 16 digits of the grid and, where it is longer, ends; with `chat` it is d1's prompt. All
puzzles that are generated have exactly one solution; a data set (`task.data`) has the columns Puzzle and Solution. The
*base* split teaches the format, the row rule and one box: its answers keep the givens, make every row and the first box
a permutation, and are otherwise random. So the base model fails most puzzles (one that has learnt just that solves 10.7
% of those with 8 blanks in expectation, 3.6 % without the box), and the rules of columns and boxes have to come from
the reward.
"""

import re
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.tasks.base import HELD_OUT, Item, Profile, Saved, Task, TaskSettings, hold_out
from pipeline.tasks.chat import as_it_is
from pipeline.tasks.data import Data, Reading, Values, splits
from pipeline.tasks.generators.sudoku_grids import (
    CELLS,
    END,
    SEPARATOR,
    compact_item,
    partly_consistent,
    solution_texts,
    solutions,
    unique_puzzles,
)
from pipeline.tasks.parsing.answers import before_stop, published_grid, tagged, unfenced, without_stops

TEMPLATES = {
    "compact": "{puzzle}" + SEPARATOR,
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


class Sudoku(TaskSettings):
    """How many puzzles to make, and how many of their 16 cells are empty, or a data set; how they are judged."""

    template: Literal["compact", "chat"] = "compact"
    profile: Profile = "strict"
    data: Data | None = None
    answer_length: int = Field(default=256, ge=1, description="tokens of a chat answer")
    base_items: int = Field(default=60_000, ge=1)
    train_items: int = Field(default=15_000, ge=1)
    validation_items: int = Field(default=0, ge=0, description="held out to select by; of a data set, training items")
    test_items: int = Field(default=512, ge=1)
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
    if settings.data:
        found = splits(settings.data, seed, Reading((("puzzle",), ("solution",)), _read))
        found["train"], found["validation"] = hold_out(found["train"], settings.validation_items)
        seen |= {puzzle_of(item.prompt) for split in HELD_OUT for item in found.get(split, ())}
        made = {"base": partly_consistent(settings.base_items, settings.train_blanks, seen, rng), **found}
    else:
        held_out = {
            "test": unique_puzzles(settings.test_items, settings.test_blanks, seen, rng),
            "hard": unique_puzzles(settings.hard_items, settings.hard_blanks, seen, rng),
            "validation": unique_puzzles(settings.validation_items, settings.test_blanks, seen, rng),
        }
        base = partly_consistent(settings.base_items, settings.train_blanks, seen, rng)
        train = unique_puzzles(settings.train_items, settings.train_blanks, seen, rng)
        made = {"base": base, "train": train, **held_out}
    if settings.template == "compact":
        return made
    return {split: [_put(item, settings.template) for item in items] for split, items in made.items()}


def puzzle_of(prompt: str) -> str:
    """The puzzle that a prompt begins with, or names. ValueError if it does neither."""
    if re.match(r"\d{16}", prompt):
        return prompt[:CELLS]
    if named := PUZZLE.search(prompt):
        return named[1]
    raise ValueError("no puzzle: 16 digits, or 'Sudoku puzzle: ' and 16 digits")


def score_text(compact: bool, profile: Profile, item: Item, answer: str) -> dict[str, float]:
    """`score` of what a text gives as its answer. Strict: the last closed `<answer>`. d1: as `score_published` says."""
    if profile == "d1":
        return score_published(compact, item, answer)
    given = answer if compact else unfenced(next(reversed(tagged(before_stop(answer))), ""))
    return score(replace(item, prompt=puzzle_of(item.prompt)), "".join(given.split()))


def score_published(compact: bool, item: Item, answer: str) -> dict[str, float]:
    """d1: cells are right that agree with the one reference. An answer is padded with "0", or cut, to 16 characters.

    The reward reads the digits in the last closed `<answer>`, the accuracy what `answers.published_grid` finds.
    """
    puzzle, reference = puzzle_of(item.prompt), item.reference
    empty = [cell for cell in range(CELLS) if puzzle[cell] == "0"]

    def right(grid: str) -> float:
        cells = grid.ljust(CELLS, "0") if grid else ""
        return sum(cells[cell] == reference[cell] for cell in empty) / len(empty) if cells and empty else 0.0

    given = answer if compact else next(reversed(tagged(without_stops(answer))), "")
    grid = "".join(answer.split()) if compact else published_grid(answer)
    whole = grid[:CELLS]
    kept = all(given in ("0", cell) for given, cell in zip(puzzle, whole, strict=False))
    return {
        "reward": right("".join(filter(str.isdigit, given))),
        "cell_accuracy": right(grid),
        "grid_accuracy": float(kept and whole in solution_texts()),
    }


def score(item: Item, answer: str) -> dict[str, float]:
    """Share of the empty cells that are right (reward, cell_accuracy) and whether the whole grid is right.

    A cell is right if it agrees with the valid completion of the puzzle that agrees with most of the
    answer. An altered given, or an answer that is not 16 cells long, scores 0.
    """
    puzzle = np.array([int(c) for c in item.prompt[:CELLS]])
    cells = np.array([int(c) if c.isdecimal() else -1 for c in answer])
    empty = puzzle == 0
    if cells.shape != (CELLS,) or (cells != puzzle)[~empty].any():
        return {"reward": 0.0, "cell_accuracy": 0.0, "grid_accuracy": 0.0}
    completions = solutions()[(solutions() == puzzle)[:, ~empty].all(axis=1)]
    right = float((completions == cells)[:, empty].mean(axis=1).max(initial=0.0))
    return {"reward": right, "cell_accuracy": right, "grid_accuracy": float(right == 1.0)}


def render(item: Item, answer: str) -> str:
    """The answer as a 4×4 grid; "·" where nothing readable was written."""
    cells = [c if c in "1234" else "·" for c in answer[:CELLS].ljust(CELLS)]
    return "\n".join(" ".join(cells[row : row + 4]) for row in range(0, CELLS, 4))


def _put(item: Item, template: str) -> Item:
    return replace(item, prompt=TEMPLATES[template].format(puzzle=puzzle_of(item.prompt)))


def _read(row: Values) -> Item:
    puzzle, solution = str(row["puzzle"]).strip(), str(row["solution"]).strip()
    if not re.fullmatch("[0-4]{16}", puzzle) or "0" not in puzzle:
        raise ValueError(f"Puzzle must be 16 digits 0-4, at least one of them 0, not {puzzle!r}")
    solves = solution in solution_texts() and all(
        given in ("0", cell) for given, cell in zip(puzzle, solution, strict=True)
    )
    if not solves:
        raise ValueError(f"Solution {solution!r} does not solve {puzzle!r}")
    return compact_item(puzzle, solution)


def saved_item(question: str, reference: Any) -> Item:
    """An item from a puzzle, or a text that names it, and its solution."""
    if not isinstance(reference, str) or len(reference.strip()) < CELLS:
        raise ValueError(f"reference must be the 16 digits of the solution, not {reference!r}")
    return replace(compact_item(puzzle_of(question), reference.strip()), prompt=question)


def configured(settings: Sudoku) -> Task:
    """The task as its section asks for it."""
    compact = settings.template == "compact"
    plain = compact and settings.profile == "strict"
    return Task(
        settings=Sudoku,
        alphabet="01234" + SEPARATOR if compact else "",
        answer_length=CELLS if compact else settings.answer_length,
        items=items,
        score=score if plain else partial(score_text, compact, settings.profile),
        render=render if compact else as_it_is,
        resolve=configured,
        saved=Saved(saved_item, "cell_accuracy", cells=lambda item: puzzle_of(item.prompt).count("0")),
        whole_text=settings.profile == "d1",
        end=END if compact else "",
    )


PLUGIN = configured(Sudoku())
