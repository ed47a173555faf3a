"""Score saved generations again.

  python -m pipeline.stages.score --task gsm8k --profile d1 --generations FILE --out OUT

FILE holds JSON lines; of each, three keys are read: `question` (a text), `generation` (the text to score, with its
special tokens) and `reference`:

  countdown  [[a, b, c], target] or {"numbers": [a, b, c], "target": t}, either as it is or as a string; anything else
             only if the question holds "Numbers: [a, b, c]" and "Target: t"
  gsm8k      a number, a text that is one or ends in "#### number", or null, with which no answer agrees
  math500    the answer as a text
  sudoku     the 16 digits of the solution; the question is the puzzle or holds "Sudoku puzzle: " and the puzzle

OUT is JSON: `n`, `accuracy` and its standard error `accuracy_se`, and `items` in the order of FILE with `correct` of
each: whether it is right; for sudoku the number of right cells, beside the number of `empty` ones, over all of which
the accuracy is averaged. The profile `d1` scores as published, `strict` with the repairs that docs/tasks.md lists.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.plugins import load_task, resolve_task
from pipeline.settings.validation import describe
from pipeline.stages.command_line import errors_on_one_line
from pipeline.storage.atomic_files import write_json
from pipeline.tasks import scoring
from pipeline.tasks.base import Item, Profile, Saved, Task, TaskSettings

KEYS = ("question", "generation", "reference")
TIMEOUT = 10.0
"""Seconds for one answer; the scorers of this package take milliseconds."""


def run(args: argparse.Namespace) -> None:
    task, saved = scorer(args.task, args.profile)
    items, answers = read(args.generations, saved)
    metrics = scoring.score(task, items, answers, TIMEOUT, range(1, len(items) + 1))
    scores = [metric[saved.accuracy] for metric in metrics]
    cells = [saved.cells(item) for item in items] if saved.cells else [1] * len(items)
    correct = [round(score * count) for score, count in zip(scores, cells, strict=True)]
    rows: list[dict[str, int]] = [{"correct": bool(count)} for count in correct]
    if saved.cells:
        rows = [{"correct": count, "empty": empty} for count, empty in zip(correct, cells, strict=True)]
    accuracy, error = ratio(correct, cells)
    totals = {"task": args.task, "profile": args.profile, "n": len(items), "accuracy": accuracy, "accuracy_se": error}
    write_json(args.out, {**totals, "items": rows})
    print(f"{args.task} ({args.profile}): {100 * accuracy:.2f} ± {100 * error:.2f} % of {len(items)}")


def scorer(name: str, profile: str) -> tuple[Task[TaskSettings], Saved]:
    """The task as a language model is judged on it, and how its saved generations are read."""
    plugin = load_task(name)
    try:
        settings = plugin.settings.model_validate({"name": name, "template": "chat", "profile": profile})
    except ValidationError as error:
        raise PipelineError(f"--task {name}: {describe(error, plugin.settings)}") from error
    task = resolve_task(settings)
    if task.saved is None:
        raise PipelineError(f"--task {name}: this task does not say how its saved generations are read (Task.saved)")
    return task, task.saved


def read(path: Path, saved: Saved) -> tuple[list[Item], list[str]]:
    """The items and the generations of a file.

    Raises:
        PipelineError: for a file without lines, or a line that is malformed; it names the line.
    """
    items, answers = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict) or (missing := [key for key in KEYS if key not in row]):
                    raise ValueError(f"has no key '{missing[0]}'" if isinstance(row, dict) else "is not a JSON object")
                for key in KEYS[:2]:
                    if not isinstance(row[key], str):
                        raise ValueError(f"{key} must be a text, not {row[key]!r}")
                items.append(saved.item(row["question"], row["reference"]))
                answers.append(row["generation"])
            except json.JSONDecodeError as error:
                raise PipelineError(f"{path}:{number}: is not JSON ({error})") from error
            except (ValueError, RecursionError) as error:
                raise PipelineError(f"{path}:{number}: {error}") from error
    if not items:
        raise PipelineError(f"{path} has no lines")
    return items, answers


def ratio(correct: Sequence[int], cells: Sequence[int]) -> tuple[float, float]:
    """p = Σc / Σe and its error √(Σ (c - p e)² / (n - 1) / n) / ē: the items are the sample, not the cells."""
    count = len(cells)
    share = sum(correct) / max(1, sum(cells))
    residual = math.fsum((c - share * e) ** 2 for c, e in zip(correct, cells, strict=True))
    return share, math.sqrt(residual / max(1, count - 1) / count) * count / max(1, sum(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, help="countdown, gsm8k, math500, sudoku, or an import path")
    parser.add_argument("--profile", required=True, choices=get_args(Profile), help="how answers are read and judged")
    parser.add_argument("--generations", required=True, type=Path, help="JSON lines to read")
    parser.add_argument("--out", required=True, type=Path, help="JSON to write")
    with errors_on_one_line():
        run(parser.parse_args())


if __name__ == "__main__":
    main()
