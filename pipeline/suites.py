"""The numbers of a suite: runs that differ in the seed alone are a family, averaged over seeds."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.evaluation import summarize
from pipeline.metrics import headline, numbers, plain

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
    """Mean and `_se` over seeds of what the last round reached, of the base, and of the effort.

    `seeds` is the headline metric of each, `splits` the last round on the other held-out splits, `lengths` with
    other numbers of answer tokens (nothing where there is one only), `base_lengths` the base's, `curve` as in `curve`.
    """
    effort = [{"rollouts": run["rollouts"], "cpu_seconds": run["time"]["cpu_seconds"]} for run in runs]
    metric = headline(runs[0]["final"])
    return {
        "run": name,
        "task": runs[0]["task"],
        "headline": metric,
        "final": summarize([numbers(run["final"]) for run in runs]),
        "base": summarize([numbers(run["base"]) for run in runs]),
        **summarize(effort),
        "seeds": [run["final"][metric] for run in runs],
        "splits": _splits(runs),
        "lengths": _lengths(runs, len(runs[0]["rounds"]), runs[0]["sampler"]),
        "base_lengths": _lengths(runs, 0, "greedy"),
        "published": published,
        "curve": curve(runs),
    }


def curve(runs: Sequence[Metrics]) -> list[Metrics]:
    """At the base and every evaluated round: `rollouts` and `cpu_seconds` of learning, metrics with `_se` over seeds.

    A method that only decodes has one point, without effort.
    """
    rollouts = runs[0]["rollouts"] / max(1, len(runs[0]["rounds"]))
    names = {"reward", *numbers(runs[0]["final"])}
    points = [{"round": 0, "rollouts": 0.0, "cpu_seconds": 0.0, **_averaged([run["base"] for run in runs], names)}]
    for number, entry in enumerate(runs[0]["rounds"], start=1):
        if headline(runs[0]["final"]) in entry:
            spent = [math.fsum(done["cpu_seconds"] for done in run["rounds"][:number]) for run in runs]
            here = _averaged([run["rounds"][number - 1] for run in runs], names)
            effort = {"rollouts": rollouts * number, "cpu_seconds": math.fsum(spent) / len(spent)}
            points.append({"round": number, **effort, **here})
    return points


def _averaged(entries: Sequence[Metrics], names: Collection[str]) -> dict[str, float]:
    return summarize([{name: entry[name] for name in sorted(names)} for entry in entries])


def _splits(runs: Sequence[Metrics]) -> dict[str, dict[str, float]]:
    """Split -> metrics of the last round, for the held-out splits beside the test split."""
    last = [run["evaluations"][-1]["splits"] for run in runs]
    found = {
        split: [numbers(plain(splits[split][run["sampler"]])) for run, splits in zip(runs, last, strict=True)]
        for split in last[0]
        if split != "test"
    }
    return {split: summarize(metrics) for split, metrics in found.items()}


def _lengths(runs: Sequence[Metrics], number: int, sampler: str) -> dict[str, dict[str, float]]:
    """Number of answer tokens -> metrics of a round on the test split, where there are several."""
    at = [
        {
            str(row["length"]): numbers(row["metrics"])
            for row in run["results"]
            if (row["round"], row["split"], row["sampler"]) == (number, "test", sampler)
        }
        for run in runs
    ]
    return {length: summarize([found[length] for found in at]) for length in at[0]} if len(at[0]) > 1 else {}
