"""The numbers of a suite. Runs that differ only in the seed form a family, and their numbers are averaged.

Standard errors are those of the mean over seeds. A family with one seed keeps the error over the evaluated items.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from operator import itemgetter
from typing import cast

from pipeline.evaluation.summary import summarize
from pipeline.report.json_types import EstimatorRow, FamilyRow, Published, RunMetrics, SuiteResult, Summary
from pipeline.report.run_metrics import headline_metric, metric_values, sampler_title, scalars
from pipeline.settings.sections import judged_by

SEED = re.compile(r"-seed(\d+)$")


def suite_result(
    suite: str,
    runs: Sequence[RunMetrics],
    published: Mapping[str, Published],
    estimators: Mapping[str, list[EstimatorRow]] | None = None,
) -> SuiteResult:
    """The content of data/results/SUITE.json: a row for each family, and the code and hardware behind the numbers.

    Args:
        published: family -> metric -> (base, final), numbers of other authors to show beside ours.
        estimators: enumerated task -> the rows of its estimators.json.
    """
    rows = [family_row(name, members, published.get(name, {})) for name, members in by_family(runs).items()]
    measured = [entry for run in runs for entry in run["results"]]
    return {
        "suite": suite,
        "git": sorted({run["git"] for run in runs}),
        "hardware": sorted({entry["hardware"] for entry in measured}),
        "versions": measured[0]["versions"],
        "rows": rows,
        "estimators": dict(estimators or {}),
    }


def by_family(runs: Sequence[RunMetrics]) -> dict[str, list[RunMetrics]]:
    """Family -> its runs, in the order given."""
    families: dict[str, list[RunMetrics]] = {}
    for metrics in runs:
        families.setdefault(family_name(metrics["run"]), []).append(metrics)
    return families


def family_name(run: str) -> str:
    """The name of a run without `-seed<number>`."""
    return re.sub(SEED, "", run)


def seed_of(run: str) -> str:
    """The number in `-seed<number>`; "" for a run without."""
    found = re.search(SEED, run)
    return found[1] if found else ""


def family_row(name: str, runs: Sequence[RunMetrics], published: Published) -> FamilyRow:
    """Means over the runs of a family.

    `final` and `base` are the metrics after the last round and of the base model, `seeds` the final headline metric of
    each run. `by_seed` has each run's final reward and metrics by its seed, for paired comparisons, those by ancestral
    sampling under names such as "ancestral grid_accuracy". `splits` are the final metrics on the other held-out splits
    and by ancestral sampling. `lengths` and `base_lengths` are the metrics by number of answer tokens, empty if there
    is only one number. `cache` is that of decoding, "" for none.
    """
    effort = summarize([{"rollouts": run["rollouts"], "cpu_seconds": run["time"]["cpu_seconds"]} for run in runs])
    headline = headline_metric(runs[0]["final"])
    row = {
        "run": name,
        "task": runs[0]["task"],
        "headline": headline,
        "cache": runs[0].get("cache", ""),
        "final": seed_means([run["final"] for run in runs]),
        "base": seed_means([run["base"] for run in runs]),
        **effort,
        "seeds": [run["final"][headline] for run in runs],
        "by_seed": {seed_of(run["run"]): _with_reward(run["final"]) | _sampled(run) for run in runs},
        "splits": _splits(runs),
        "lengths": _lengths(runs, len(runs[0]["rounds"]), runs[0]["sampler"]),
        "base_lengths": _lengths(runs, 0, judged_by(runs[0]["evaluations"][0]["splits"]["test"])),
        "published": published,
        "curve": learning_curve(runs),
    }
    return cast(FamilyRow, row)


def _with_reward(final: Summary) -> Summary:
    return {name: final[name] for name in ("reward", *metric_values(final)) if name in final}


def _sampled(run: RunMetrics) -> Summary:
    """The headline metric by ancestral sampling, where a run that decodes greedily was tested so, too. The exact KL
    belongs to no sampler."""
    if run["sampler"] != "greedy":
        return {}
    name = headline_metric(run["final"])
    found = {key: scalars(one) for key, one in run["evaluations"][-1]["splits"]["test"].items()}
    sampled = {key: one for key, one in found.items() if key.startswith("ancestral") and name in one}
    return {f"{sampler_title(key)} {name}": one[name] for key, one in sampled.items()}


def learning_curve(runs: Sequence[RunMetrics]) -> list[Summary]:
    """A point for the base and for every evaluated round: `round`, metrics with `_se`, and the `rollouts` and
    `cpu_seconds` of all training so far. An algorithm that only decodes has one point, without effort."""
    rollouts = runs[0]["rollouts"] / max(1, len(runs[0]["rounds"]))
    names = ["reward", *metric_values(runs[0]["final"])]
    points = [{"round": 0, "rollouts": 0.0, "cpu_seconds": 0.0, **seed_means([run["base"] for run in runs], names)}]
    for number in [entry["round"] for entry in runs[0]["evaluations"][1:]]:
        spent = [math.fsum(done["cpu_seconds"] for done in run["rounds"][:number]) for run in runs]
        effort = {"rollouts": rollouts * number, "cpu_seconds": math.fsum(spent) / len(spent)}
        points.append({"round": number, **effort, **seed_means([_test_metrics(run, number) for run in runs], names)})
    return points


def _test_metrics(run: RunMetrics, number: int) -> Summary:
    """The metrics that a run is judged by, on the test split after a round, with the exact KL."""
    (splits,) = (entry["splits"] for entry in run["evaluations"] if entry["round"] == number)
    return scalars(run["rounds"][number - 1]) | scalars(splits["test"][judged_by(splits["test"])])


def seed_means(evaluations: Sequence[Summary], names: Collection[str] = ()) -> Summary:
    """Mean and `_se` of the named metrics, by default `metric_values`, and `n`, the number of seeds."""
    names = names or metric_values(evaluations[0])
    over_seeds = summarize([{name: entry[name] for name in names} for entry in evaluations])
    if len(evaluations) > 1:
        return over_seeds
    return over_seeds | {f"{name}_se": evaluations[0].get(f"{name}_se", 0.0) for name in names}


def _splits(runs: Sequence[RunMetrics]) -> dict[str, Summary]:
    """Split -> metrics of the last round, for the held-out splits other than the test split, and for all of them by
    ancestral sampling where a run that trains was evaluated so."""
    last = [run["evaluations"][-1]["splits"] for run in runs]
    asked = {split: (split, runs[0]["sampler"]) for split in last[0] if split != "test"}
    if runs[0]["sampler"] == "greedy":
        for sampler, split in product(("ancestral", "ancestral_confidence"), last[0]):
            if sampler in last[0][split]:
                title = sampler_title(sampler)
                asked[title if split == "test" else f"{split}, {title}"] = (split, sampler)
    return {
        title: seed_means([scalars(splits[split][sampler]) for splits in last])
        for title, (split, sampler) in asked.items()
    }


def _lengths(runs: Sequence[RunMetrics], number: int, sampler: str) -> dict[str, Summary]:
    """Number of answer tokens -> metrics of a round on the test split; empty if there is only one number."""
    key, wanted = itemgetter("round", "split", "sampler"), (number, "test", sampler)
    at = [{str(row["length"]): row["metrics"] for row in run["results"] if key(row) == wanted} for run in runs]
    return {length: seed_means([found[length] for found in at]) for length in at[0]} if len(at[0]) > 1 else {}
