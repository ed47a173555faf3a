"""The tables of a suite, made of the rows in its JSON alone; cells are text, the head first."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from pipeline.report.run_metrics import numbers

Row = dict[str, Any]
Cells = list[list[str]]
EFFORT = ("rollouts", "cpu_seconds")


def tables(rows: Sequence[Row]) -> dict[str, Cells]:
    """Title -> cells: what the last rounds reached; by answer length; at the same compute."""
    found = {"After the last round": last_rounds(rows), "By number of answer tokens": by_length(rows)}
    for task in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == task]
        trained = [row for row in here if len(row["curve"]) > 1]
        if len(trained) > 1:
            budget = min(row["curve"][-1]["cpu_seconds"] for row in trained)
            title = f"At the same compute: {task}, {budget:,.0f} CPU seconds of rollouts, targets and training"
            found[title] = at_the_same_compute(trained, budget)
    return {title: cells for title, cells in found.items() if len(cells) > 1}


def last_rounds(rows: Sequence[Row]) -> Cells:
    """Mean ± standard error. Base, single seeds and other splits stand beside the headline metric."""
    first = list(dict.fromkeys(row["headline"] for row in rows))
    names = list(dict.fromkeys([*first, *(name for row in rows for name in numbers(row["final"]))]))
    splits = list(dict.fromkeys(split for row in rows for split in row["splits"]))
    columns: dict[str, Callable[[Row], str]] = {"run": itemgetter("run"), "seeds": lambda row: str(row["n"])}
    columns |= {f"{name}: base": partial(_part, "base", name) for name in first}
    columns |= {name: partial(_part, "final", name) for name in names}
    columns |= {f"{name}: published, base → final": partial(_published, name) for name in names}
    columns |= {f"{name}: each seed": partial(_seeds, name) for name in first}
    columns |= {f"{name}: {split}": partial(_split, split, name) for name in first for split in splits}
    columns |= {name: partial(_effort, name) for name in EFFORT}
    shown_ = {title: [show(row) for row in rows] for title, show in columns.items()}
    filled = {title: texts for title, texts in shown_.items() if any(texts)}
    return [list(filled), *map(list, zip(*filled.values(), strict=True))]


def by_length(rows: Sequence[Row]) -> Cells:
    """The headline metric of the last round with each number of answer tokens, below that of the base."""
    rows = [row for row in rows if row["lengths"]]
    columns = sorted({length for row in rows for length in row["lengths"]}, key=int)

    def line(title: str, row: Row, part: str) -> list[str]:
        return [title, str(row["n"]), *(cell(row[part].get(length, {}), row["headline"]) for length in columns)]

    bases = [line(f"base of {row['run']}", row, "base_lengths") for row in rows]
    own = [line for number, line in enumerate(bases) if line[1:] not in [other[1:] for other in bases[:number]]]
    return [["run", "seeds", *columns], *own, *(line(row["run"], row, "lengths") for row in rows)]


def at_the_same_compute(rows: Sequence[Row], budget: float) -> Cells:
    """The last evaluated round of each within `budget`, and how soon the first row's reward is that of the others.

    Rollouts, targets and training count, evaluation and the base do not. The last column is the least number of
    rollouts after which the first row's reward has reached what the other one ends with, and its share of theirs.
    """
    name, reference = rows[0]["headline"], rows[0]
    head = ["run", name, "rollouts", "cpu_seconds", "reward at the end", f"as soon by {reference['run']}"]
    cells = [head]
    for row in rows:
        point = [point for point in row["curve"] if point["cpu_seconds"] <= budget][-1]
        end = row["curve"][-1]
        soon = next((point["rollouts"] for point in reference["curve"] if point["reward"] >= end["reward"]), None)
        share = "never" if soon is None else f"{soon:,.0f} ({soon / end['rollouts']:.2g})"
        effort = [f"{point['rollouts']:,.0f}", f"{point['cpu_seconds']:.0f}"]
        cells.append([row["run"], cell(point, name), *effort, cell(end, "reward"), "" if row is reference else share])
    return cells


def markdown(cells: Cells) -> str:
    """Cells as a table in text."""
    head, *body = cells
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(summary: dict[str, float], name: str) -> str:
    """mean ± standard error if there is one, accuracies in percent"""
    if name not in summary:
        return ""
    mean, error = summary[name], round(summary[f"{name}_se"], 12)  # equal seeds differ by rounding
    known = summary["n"] > 1 or error > 0
    if name.endswith("accuracy"):
        return f"{100 * mean:.1f} ± {100 * error:.1f} %" if known else f"{100 * mean:.1f} %"
    return f"{mean:.3g} ± {error:.2g}" if known else f"{mean:.3g}"


def _part(part: str, name: str, row: Row) -> str:
    return cell(row[part], name)


def _split(split: str, name: str, row: Row) -> str:
    return cell(row["splits"].get(split, {}), name)


def _effort(name: str, row: Row) -> str:
    return f"{row[name]:,.0f}"


def _published(name: str, row: Row) -> str:
    return " → ".join(_alone(name, value) for value in row["published"].get(name, ()))


def _seeds(name: str, row: Row) -> str:
    if row["n"] == 1 or name != row["headline"]:
        return ""
    return ", ".join(_alone(name, value).removesuffix(" %") for value in row["seeds"])


def _alone(name: str, value: float) -> str:
    """One value, without an error."""
    return cell({"n": 1, name: value, f"{name}_se": 0.0}, name)
