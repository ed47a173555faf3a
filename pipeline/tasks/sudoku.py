"""4×4 Sudoku: fill a puzzle so that every row, column and 2×2 box holds 1, 2, 3, 4.

A puzzle is 16 characters in row-major order, "0" where empty; the prompt is the puzzle and a separator, the
answer the 16 digits of the grid. All puzzles have exactly one solution. The *base* split teaches the format
and the row rule only: its answers keep the givens and make every row a permutation, and are otherwise
random. So the base model fails most puzzles, and the rules of columns and boxes have to come from the reward.
"""

from functools import cache
from itertools import permutations

import numpy as np
from pydantic import Field, model_validator

from pipeline.tasks.base import Item, Settings, Task

SEPARATOR = ">"
CELLS = 16


class Sudoku(Settings):
    """How many puzzles to make, and how many of their 16 cells are empty."""

    base_items: int = Field(default=60_000, ge=1)
    train_items: int = Field(default=15_000, ge=1)
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


@cache
def solutions() -> np.ndarray:
    """All 288 solution grids, [288, 16], values 1..4."""
    rows = np.array(list(permutations((1, 2, 3, 4))))
    four = np.stack(np.meshgrid(*[np.arange(24)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    grids = rows[four]
    bits = 1 << grids
    columns = np.bitwise_or.reduce(bits, axis=1)
    boxes = np.bitwise_or.reduce(bits.reshape(-1, 2, 2, 2, 2), axis=(2, 4))
    valid = (columns == 30).all(axis=1) & (boxes == 30).all(axis=(1, 2))
    return grids[valid].reshape(-1, CELLS)


def unique_puzzles(count: int, blanks: tuple[int, int], seen: set[str], rng: np.random.Generator) -> list[Item]:
    """`count` distinct puzzles with one solution, none of them in `seen`, which grows by them."""
    items: list[Item] = []
    while len(items) < count:
        grid, puzzle = _random_puzzles(1024, blanks, rng)
        compatible = (puzzle[:, None] == solutions()[None]) | (puzzle[:, None] == 0)
        for index in np.flatnonzero(compatible.all(axis=2).sum(axis=1) == 1):
            text = _text(puzzle[index])
            if text not in seen and len(items) < count:
                seen.add(text)
                items.append(_item(text, _text(grid[index])))
    return items


def row_consistent(count: int, blanks: tuple[int, int], seen: set[str], rng: np.random.Generator) -> list[Item]:
    """`count` puzzles outside `seen` whose answers keep the givens and permute what each row lacks at random."""
    items: list[Item] = []
    while len(items) < count:
        grid, puzzle = _random_puzzles(4096, blanks, rng)
        grid, empty = grid.reshape(-1, 4, 4), puzzle.reshape(-1, 4, 4) == 0
        shuffled = np.where(empty, rng.random(empty.shape), np.inf).argsort(axis=2, kind="stable")
        in_order = np.where(empty, 0.0, np.inf).argsort(axis=2, kind="stable")
        answer = np.empty_like(grid)
        np.put_along_axis(answer, in_order, np.take_along_axis(grid, shuffled, axis=2), axis=2)
        pairs = zip(map(_text, puzzle), map(_text, answer.reshape(-1, CELLS)), strict=True)
        items += [_item(text, answer) for text, answer in pairs if text not in seen]
    return items[:count]


def items(settings: Sudoku, seed: int) -> dict[str, list[Item]]:
    """The splits; no test or hard puzzle occurs in the base or train split."""
    rng = np.random.default_rng([seed, 0x50D0])
    seen: set[str] = set()
    test = unique_puzzles(settings.test_items, settings.test_blanks, seen, rng)
    hard = unique_puzzles(settings.hard_items, settings.hard_blanks, seen, rng)
    base = row_consistent(settings.base_items, settings.train_blanks, seen, rng)
    train = unique_puzzles(settings.train_items, settings.train_blanks, seen, rng)
    return {"base": base, "train": train, "test": test, "hard": hard}


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


def _random_puzzles(count: int, blanks: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(solution grids, puzzles), both [count, 16]."""
    grid = solutions()[rng.integers(len(solutions()), size=count)]
    rank = rng.random((count, CELLS)).argsort(axis=1).argsort(axis=1)
    number = rng.integers(blanks[0], blanks[1] + 1, size=(count, 1))
    return grid, np.where(rank < number, 0, grid)


def _text(cells: np.ndarray) -> str:
    return "".join(map(str, cells))


def _item(puzzle: str, answer: str) -> Item:
    return Item(puzzle + SEPARATOR, answer, f"{puzzle.count('0')} blanks")


PLUGIN = Task(
    settings=Sudoku, alphabet="01234" + SEPARATOR, answer_length=CELLS, items=items, score=score, render=render
)
