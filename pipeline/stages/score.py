"""Score saved generations again.

  python -m pipeline.stages.score --task gsm8k --profile d1 --generations FILE --out OUT

FILE holds JSON lines; of each, three keys are read: `question` (a text), `generation` (the text to score, with its
special tokens) and `reference`:

  countdown  [[a, b, c], target] or {"numbers": [a, b, c], "target": t}, either as it is or as a string; anything else
             only if the question holds "Numbers: [a, b, c]" and "Target: t"
  gsm8k      a number, a text that is one or ends in "#### number", or null, with which no answer agrees
  math500    the answer as a text
  sudoku     the 16 digits of the solution; the question is the puzzle or holds "Sudoku puzzle: " and the puzzle

Blank lines are ignored. OUT is JSON: `n`, the mean of each metric of the task, its standard error `<metric>_se`, and
`items`, the metrics of each in the order of FILE. For the tasks above, `accuracy` is that of the papers, and an item
also has `correct`, whether it is right. For sudoku, `correct` is the number of right cells and `empty` the number of
cells to fill; the accuracy is over the cells of all items. The profile `d1` scores as published, `strict` with the
repairs that docs/scoring.md lists.
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.evaluation.summary import summarize
from pipeline.plugins import load_task
from pipeline.settings.validation import describe
from pipeline.stages.command_line import errors_on_one_line
from pipeline.storage.atomic_files import write_json
from pipeline.tasks.base import Item, Profile, Saved
from pipeline.tasks.scoring import Scorer

KEYS = ("question", "generation", "reference")
BATCH = 1000
TIMEOUT = 10.0
"""Seconds for one answer; the scorers of this package take milliseconds."""


def run(args: argparse.Namespace) -> None:
    score, saved = scorer(args.task, args.profile)
    metrics: list[Mapping[str, float]] = []
    cells: list[int] = []
    with closing(score):
        for numbers, items, answers in batches(args.generations, saved):
            metrics += score(items, answers, numbers)
            cells += [saved.cells(item) if saved.cells else 1 for item in items]
    if not metrics:
        raise PipelineError(f"{args.generations} has no lines")
    totals = {"task": args.task, "profile": args.profile, **summarize(metrics)}
    if saved.accuracy not in metrics[0]:
        write_json(args.out, {**totals, "items": metrics})
        print(f"{args.task} ({args.profile}): {', '.join(f'{name} {totals[name]:.4g}' for name in metrics[0])}")
        return
    correct = [round(metric[saved.accuracy] * count) for metric, count in zip(metrics, cells, strict=True)]
    judged: list[Mapping[str, int]] = [{"correct": bool(count)} for count in correct]
    if saved.cells:
        judged = [{"correct": count, "empty": empty} for count, empty in zip(correct, cells, strict=True)]
    rows = [{**metric, **verdict} for metric, verdict in zip(metrics, judged, strict=True)]
    accuracy, error = ratio(correct, cells)
    write_json(args.out, {**totals, "accuracy": accuracy, "accuracy_se": error, "items": rows})
    print(f"{args.task} ({args.profile}): {100 * accuracy:.2f} ± {100 * error:.2f} % of {len(metrics)}")


def scorer(name: str, profile: str) -> tuple[Scorer, Saved]:
    """The task's scorer as a language model is judged by it, and how its saved generations are read."""
    plugin = load_task(name)
    keys = {"name": name, "template": "chat", "profile": profile}
    try:
        settings = plugin.settings.model_validate(
            {key: keys[key] for key in keys if key in plugin.settings.model_fields}
        )
    except ValidationError as error:
        raise PipelineError(f"--task {name}: {describe(error, plugin.settings)}") from error
    score = Scorer(settings, TIMEOUT)
    if score.task.saved is None:
        raise PipelineError(f"--task {name}: this task does not say how its saved generations are read (Task.saved)")
    return score, score.task.saved


def batches(path: Path, saved: Saved) -> Iterator[tuple[list[int], list[Item], list[str]]]:
    """The numbers of the lines of a file, their items and their generations, a batch at a time.

    Raises:
        PipelineError: for a line that is malformed; it names the line.
    """
    with path.open("rb") as lines:
        rows = (
            (number, *read(line, f"{path}:{number}", saved)) for number, line in enumerate(lines, 1) if line.strip()
        )
        while batch := list(itertools.islice(rows, BATCH)):
            numbers, items, answers = zip(*batch, strict=True)
            yield list(numbers), list(items), list(answers)


def read(line: bytes, where: str, saved: Saved) -> tuple[Item, str]:
    """The item and the generation of a line."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("is not a JSON object")
        if missing := [key for key in KEYS if key not in row]:
            null = " (null if the reward reads none)" if missing == ["reference"] else ""
            raise ValueError(f"has no key '{missing[0]}'{null}")
        for key in KEYS[:2]:
            if not isinstance(row[key], str):
                raise ValueError(f"{key} must be a text, not {row[key]!r}")
        return replace(saved.item(row["question"], row["reference"]), source=where), row["generation"]
    except json.JSONDecodeError as error:
        raise PipelineError(f"{where}: is not JSON ({error})") from error
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{where}: {error}") from error


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
