"""The numbers of a suite: runs that differ in the seed alone are a family, averaged over seeds."""

import math
import re
from collections.abc import Sequence
from typing import Any

from pipeline.evaluation import summarize
from pipeline.metrics import headline, numbers

Metrics = dict[str, Any]
EFFORT = ("rollouts", "cpu_seconds")


def by_family(runs: Sequence[Metrics]) -> dict[str, list[Metrics]]:
    """Runs by their name without `-seed<number>`, in the order given."""
    families: dict[str, list[Metrics]] = {}
    for metrics in runs:
        families.setdefault(family(metrics["run"]), []).append(metrics)
    return families


def family(run: str) -> str:
    return re.sub(r"-seed\d+$", "", run)


def row(name: str, runs: Sequence[Metrics]) -> Metrics:
    """Mean and `_se` over seeds of what the last round reached, of the base, and of the effort."""
    effort = [{"rollouts": run["rollouts"], "cpu_seconds": run["time"]["cpu_seconds"]} for run in runs]
    return {
        "run": name,
        "task": runs[0]["task"],
        "headline": headline(runs[0]["final"]),
        "final": summarize([numbers(run["final"]) for run in runs]),
        "base": summarize([numbers(run["base"]) for run in runs]),
        **summarize(effort),
    }


def curves(runs: Sequence[Metrics]) -> list[Metrics]:
    """At the base and every evaluated round: `rollouts` and `cpu_seconds` of learning, metrics with `_se` over seeds.

    A method that only decodes has one point, without effort.
    """
    rollouts = runs[0]["rollouts"] / max(1, len(runs[0]["rounds"]))
    names = numbers(runs[0]["final"])
    points = [{"round": 0, "rollouts": 0.0, "cpu_seconds": 0.0, **_averaged([run["base"] for run in runs], names)}]
    for number, entry in enumerate(runs[0]["rounds"], start=1):
        if headline(runs[0]["final"]) in entry:
            spent = [math.fsum(done["cpu_seconds"] for done in run["rounds"][:number]) for run in runs]
            here = _averaged([run["rounds"][number - 1] for run in runs], names)
            effort = {"rollouts": rollouts * number, "cpu_seconds": math.fsum(spent) / len(spent)}
            points.append({"round": number, **effort, **here})
    return points


def _averaged(entries: Sequence[Metrics], names: Metrics) -> dict[str, float]:
    return summarize([{name: entry[name] for name in names} for entry in entries])


def lengths(families: dict[str, list[Metrics]]) -> list[list[str]]:
    """The last round's headline metric at each number of answer tokens it was decoded with, head first; [] for one."""
    found = {name: [_at_lengths(run) for run in runs] for name, runs in families.items()}
    columns = sorted({length for runs in found.values() for at in runs for length in at})
    if len(columns) < 2:
        return []
    cells = [["run", "seeds", *map(str, columns)]]
    for name, runs in found.items():
        metric = headline(families[name][0]["final"])
        at = [summarize([run[length] for run in runs if length in run] or [{}]) for length in columns]
        cells.append([name, str(len(runs)), *(shown(summary, metric) for summary in at)])
    return cells


def _at_lengths(run: Metrics) -> dict[int, dict[str, float]]:
    """Length -> metrics of the last round on the test split."""
    wanted = (max(row["round"] for row in run["results"]), "test", run["sampler"])
    rows = [row for row in run["results"] if (row["round"], row["split"], row["sampler"]) == wanted]
    return {row["length"]: numbers(row["metrics"]) for row in rows}


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Cells, head first, as a table in text."""
    head, *body = cells
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table(rows: Sequence[Metrics]) -> list[list[str]]:
    """The cells, head first. The base stands beside the headline metric only."""
    first = list(dict.fromkeys(entry["headline"] for entry in rows))
    names = first + [key for key in dict.fromkeys(k for entry in rows for k in numbers(entry["final"]))
                     if key not in first]  # fmt: skip
    columns = [(f"{name}: base", "base", name) for name in first] + [(name, "final", name) for name in names]
    cells = [["run", "seeds", *(title for title, _, _ in columns), *EFFORT]]
    for entry in rows:
        shown_ = [shown(entry[part], name) for _, part, name in columns]
        cells.append([entry["run"], str(entry["n"]), *shown_, *(f"{entry[name]:.0f}" for name in EFFORT)])
    return cells


def shown(summary: Metrics, name: str) -> str:
    """mean ± standard error; one seed has none"""
    if name not in summary:
        return ""
    error = round(summary[f"{name}_se"], 12)  # equal seeds differ by rounding
    return f"{summary[name]:.3g} ± {error:.2g}" if summary["n"] > 1 else f"{summary[name]:.3g}"
