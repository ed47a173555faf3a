"""The numbers of a suite: runs that differ in the seed alone are a family, averaged over seeds.

Errors are those of the mean over seeds; a single seed keeps its evaluation's own error, over items.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.evaluation.summary import summarize
from pipeline.report.run_metrics import headline, numbers, scalars

Metrics = dict[str, Any]


def result(suite: str, runs: Sequence[Metrics], published: Mapping[str, Any]) -> Metrics:
    """The content of data/results/SUITE.json: a row for each family, and what the numbers stand on.

    Args:
        published: family -> metric -> (base, final), figures of others to stand beside ours.
    """
    rows = [row(name, members, published.get(name, {})) for name, members in by_family(runs).items()]
    measured = [entry for run in runs for entry in run["results"]]
    return {
        "suite": suite,
        "git": sorted({run["git"] for run in runs}),
        "hardware": sorted({entry["hardware"] for entry in measured}),
        "versions": measured[0]["versions"],
        "rows": rows,
    }


def by_family(runs: Sequence[Metrics]) -> dict[str, list[Metrics]]:
    """Runs by their name without `-seed<number>`, in the order given."""
    families: dict[str, list[Metrics]] = {}
    for metrics in runs:
        families.setdefault(family(metrics["run"]), []).append(metrics)
    return families


def family(run: str) -> str:
    return re.sub(r"-seed\d+$", "", run)


def row(name: str, runs: Sequence[Metrics], published: Mapping[str, Any]) -> Metrics:
    """Mean and `_se` of what the last round reached, of the base, and of the effort.

    `seeds` is the headline metric of each, `splits` the last round on the other held-out splits, `lengths` with
    other numbers of answer tokens (nothing where there is one only), `base_lengths` the base's, `curve` as in `curve`.
    """
    effort = [{"rollouts": run["rollouts"], "cpu_seconds": run["time"]["cpu_seconds"]} for run in runs]
    metric = headline(runs[0]["final"])
    return {
        "run": name,
        "task": runs[0]["task"],
        "headline": metric,
        "final": averaged([run["final"] for run in runs]),
        "base": averaged([run["base"] for run in runs]),
        **summarize(effort),
        "seeds": [run["final"][metric] for run in runs],
        "splits": _splits(runs),
        "lengths": _lengths(runs, len(runs[0]["rounds"]), runs[0]["sampler"]),
        "base_lengths": _lengths(runs, 0, "greedy"),
        "published": published,
        "curve": curve(runs),
    }


def curve(runs: Sequence[Metrics]) -> list[Metrics]:
    """At the base and every evaluated round: `rollouts` and `cpu_seconds` of learning, metrics with `_se`.

    A method that only decodes has one point, without effort.
    """
    rollouts = runs[0]["rollouts"] / max(1, len(runs[0]["rounds"]))
    names = ["reward", *numbers(runs[0]["final"])]
    points = [{"round": 0, "rollouts": 0.0, "cpu_seconds": 0.0, **averaged([run["base"] for run in runs], names)}]
    for number, entry in enumerate(runs[0]["rounds"], start=1):
        if headline(runs[0]["final"]) in entry:
            spent = [math.fsum(done["cpu_seconds"] for done in run["rounds"][:number]) for run in runs]
            here = averaged([run["rounds"][number - 1] for run in runs], names)
            effort = {"rollouts": rollouts * number, "cpu_seconds": math.fsum(spent) / len(spent)}
            points.append({"round": number, **effort, **here})
    return points


def averaged(evaluations: Sequence[Metrics], names: Collection[str] = ()) -> dict[str, float]:
    """Mean and `_se` of some metrics, of all but the reward unless named, and n, the number of seeds."""
    names = names or numbers(evaluations[0])
    over_seeds = summarize([{name: entry[name] for name in names} for entry in evaluations])
    if len(evaluations) > 1:
        return over_seeds
    return over_seeds | {f"{name}_se": evaluations[0].get(f"{name}_se", 0.0) for name in names}


def _splits(runs: Sequence[Metrics]) -> dict[str, dict[str, float]]:
    """Split -> metrics of the last round, for the held-out splits beside the test split."""
    last = [run["evaluations"][-1]["splits"] for run in runs]
    found = {
        split: [scalars(splits[split][run["sampler"]]) for run, splits in zip(runs, last, strict=True)]
        for split in last[0]
        if split != "test"
    }
    return {split: averaged(metrics) for split, metrics in found.items()}


def _lengths(runs: Sequence[Metrics], number: int, sampler: str) -> dict[str, dict[str, float]]:
    """Number of answer tokens -> metrics of a round on the test split, where there are several."""
    at = [
        {
            str(row["length"]): row["metrics"]
            for row in run["results"]
            if (row["round"], row["split"], row["sampler"]) == (number, "test", sampler)
        }
        for run in runs
    ]
    return {length: averaged([found[length] for found in at]) for length in at[0]} if len(at[0]) > 1 else {}
