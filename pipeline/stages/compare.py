"""Rule `compare`: the runs of a suite side by side, those that differ in the seed alone averaged."""

import math
import re
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from pipeline.evaluation import summarize
from pipeline.figures import comparison
from pipeline.files import read_json, replacing, write_json
from pipeline.stages import main

Metrics = dict[str, Any]
BESIDES = ("rollouts", "cpu_seconds")


def run(args: Namespace) -> None:
    families = by_family([read_json(path) for path in args.metrics])
    rows = [row(name, runs) for name, runs in families.items()]
    table = markdown(rows)
    with replacing(args.markdown) as temporary:
        temporary.write_text(table)
    with replacing(args.figure) as temporary:
        temporary.write_text(comparison({name: curves(runs) for name, runs in families.items()}))
    write_json(args.out, rows)
    print(table)


def by_family(runs: Sequence[Metrics]) -> dict[str, list[Metrics]]:
    """Runs by their name without `-seed<number>`, in the order given."""
    families: dict[str, list[Metrics]] = {}
    for metrics in runs:
        families.setdefault(re.sub(r"-seed\d+$", "", metrics["run"]), []).append(metrics)
    return families


def row(name: str, runs: Sequence[Metrics]) -> Metrics:
    """Mean and `_se` over seeds of what the last round reached, of the base, and of the effort."""
    return {
        "run": name,
        "final": summarize([numbers(metrics["final"]) for metrics in runs]),
        "base": summarize([numbers(metrics["base"]) for metrics in runs]),
        **summarize(
            [{"rollouts": metrics["rollouts"], "cpu_seconds": metrics["time"]["cpu_seconds"]} for metrics in runs]
        ),
    }


def numbers(evaluation: Metrics) -> dict[str, float]:
    """An evaluation's metrics, without their errors over items."""
    return {key: value for key, value in evaluation.items() if key not in ("n", "reward") and not key.endswith("_se")}


def headline(evaluation: Metrics) -> str:
    """The metric of the figure: the exact KL where there is one, else the last accuracy."""
    return "kl" if "kl" in evaluation else list(numbers(evaluation))[-1]


def curves(runs: Sequence[Metrics]) -> dict[str, Any]:
    """The headline metric at every evaluated round: rollouts and seconds spent, mean, standard error over seeds."""
    name = headline(runs[0]["final"])
    effort, points = runs[0]["rollouts"] / max(1, len(runs[0]["rounds"])), []
    for index, entry in enumerate(runs[0]["rounds"]):
        if name in entry:
            spent = [sum(sum(done["seconds"].values()) for done in run["rounds"][: index + 1]) for run in runs]
            value = summarize([{name: run["rounds"][index][name]} for run in runs])
            points.append((effort * (index + 1), math.fsum(spent) / len(spent), value[name], value[f"{name}_se"]))
    return {"metric": name, "points": points}


def markdown(rows: Sequence[Metrics]) -> str:
    """A table: one row a family, mean ± standard error over seeds."""
    names = list(dict.fromkeys(key for entry in rows for key in numbers(entry["final"])))
    head = ["run", "seeds", *(f"{name}{suffix}" for name in names for suffix in (": base", "")), *BESIDES]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for entry in rows:
        cells = [shown(entry[part], name) for name in names for part in ("base", "final")]
        lines.append([entry["run"], str(entry["n"]), *cells, *(f"{entry[name]:.0f}" for name in BESIDES)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(summary: Metrics, name: str) -> str:
    """mean ± standard error; one seed has none"""
    if name not in summary:
        return ""
    error = round(summary[f"{name}_se"], 12)  # equal seeds differ by rounding
    return f"{summary[name]:.3g} ± {error:.2g}" if summary["n"] > 1 else f"{summary[name]:.3g}"


if __name__ == "__main__":
    main(
        run,
        __doc__,
        {
            "metrics*": "metrics.json of every run",
            "out": "JSON to write: a row a family",
            "markdown": "the same as a table",
            "figure": "SVG to write: the headline metric against rollouts and seconds",
        },
    )
