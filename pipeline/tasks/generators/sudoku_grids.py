"""4×4 Sudoku grids: all solutions, puzzles with one solution, and answers that obey only some of the rules."""

from collections.abc import Iterator
from functools import cache
from itertools import permutations

import numpy as np

from pipeline.errors import PipelineError
from pipeline.tasks.base import Item

SEPARATOR, END = ">", "."
CELLS = 16
EVERY_DIGIT = 0b11110
"""Bits 1 to 4 set."""
GIVE_UP = 100
"""After this many draws of over 1,000 puzzles each without a new one, there is none left."""


@cache
def solutions() -> np.ndarray:
    """All 288 solution grids, [288, 16], values 1..4."""
    rows = np.array(list(permutations((1, 2, 3, 4))))
    grids = rows[np.indices((len(rows),) * 4).reshape(4, -1).T]
    bits = 1 << grids
    columns = np.bitwise_or.reduce(bits, axis=1)
    boxes = np.bitwise_or.reduce(bits.reshape(-1, 2, 2, 2, 2), axis=(2, 4))
    valid = (columns == EVERY_DIGIT).all(axis=1) & (boxes == EVERY_DIGIT).all(axis=(1, 2))
    return np.reshape(grids[valid], (-1, CELLS))


@cache
def solution_texts() -> frozenset[str]:
    """All solution grids as strings."""
    return frozenset(map(_text, solutions()))


def compact_item(puzzle: str, answer: str) -> Item:
    """A puzzle in the template `compact`."""
    return Item(puzzle + SEPARATOR, answer, f"{puzzle.count('0')} blanks")


def unique_puzzles(count: int, blanks: tuple[int, int], seen: set[str], rng: np.random.Generator) -> list[Item]:
    """`count` new puzzles with one solution, which are added to `seen`. PipelineError if there are fewer."""
    items: list[Item] = []
    for _ in _draws(items, count, blanks):
        grid, puzzle = _random_puzzles(1024, blanks, rng)
        compatible = (puzzle[:, None] == solutions()[None]) | (puzzle[:, None] == 0)
        for index in np.flatnonzero(compatible.all(axis=2).sum(axis=1) == 1):
            text = _text(puzzle[index])
            if text not in seen and len(items) < count:
                seen.add(text)
                items.append(compact_item(text, _text(grid[index])))
    return items


def partly_consistent(count: int, blanks: tuple[int, int], seen: set[str], rng: np.random.Generator) -> list[Item]:
    """`count` puzzles not in `seen`, with answers that keep the givens and have a permutation in every row and in the
    first box, and are otherwise random. PipelineError if all puzzles are in `seen`.
    """
    items: list[Item] = []
    for _ in _draws(items, count, blanks):
        grid, puzzle = _random_puzzles(4096, blanks, rng)
        grid, empty = grid.reshape(-1, 4, 4), puzzle.reshape(-1, 4, 4) == 0
        shuffled = np.where(empty, rng.random(empty.shape), np.inf).argsort(axis=2, kind="stable")
        in_order = np.where(empty, 0.0, np.inf).argsort(axis=2, kind="stable")
        answer = np.empty_like(grid)
        np.put_along_axis(answer, in_order, np.take_along_axis(grid, shuffled, axis=2), axis=2)
        box = np.bitwise_or.reduce(1 << answer[:, :2, :2], axis=(1, 2)) == EVERY_DIGIT
        pairs = zip(map(_text, puzzle[box]), map(_text, answer[box].reshape(-1, CELLS)), strict=True)
        items += [compact_item(text, answer) for text, answer in pairs if text not in seen]
    return items[:count]


def _draws(items: list[Item], count: int, blanks: tuple[int, int]) -> Iterator[None]:
    """Yields once per draw until there are `count` items, which the loop body appends."""
    without_new = 0
    while len(items) < count:
        before = len(items)
        yield
        without_new = 0 if len(items) > before else without_new + 1
        if without_new == GIVE_UP:
            wanted = f"{count} puzzles with {blanks[0]} to {blanks[1]} blanks"
            raise PipelineError(f"task: {wanted} are wanted, but there are only {before} that no other split has")


def _random_puzzles(count: int, blanks: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(solution grids, puzzles), both [count, 16]."""
    grid = solutions()[rng.integers(len(solutions()), size=count)]
    rank = rng.random((count, CELLS)).argsort(axis=1).argsort(axis=1)
    number = rng.integers(blanks[0], blanks[1] + 1, size=(count, 1))
    return grid, np.where(rank < number, 0, grid)


def _text(cells: np.ndarray) -> str:
    return "".join(map(str, cells))
