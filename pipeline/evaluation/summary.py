"""Means and standard errors of the metrics of single answers. Torch-free."""

import math
from collections.abc import Iterable, Mapping, Sequence

Metrics = Mapping[str, float]


def summarize(metrics: Sequence[Metrics]) -> dict[str, float]:
    """For each metric its mean and standard error `<metric>_se` = s/√n (s² with n - 1), and n.

    The error treats the items as a sample from a larger population.
    """
    count = len(metrics)
    summary: dict[str, float] = {"n": count}
    for name in metrics[0]:
        values = [metric[name] for metric in metrics]
        mean = math.fsum(values) / count
        variance = math.fsum((value - mean) ** 2 for value in values) / max(1, count - 1)
        summary |= {name: mean, f"{name}_se": math.sqrt(variance / count)}
    return summary


def shown(names: Iterable[str]) -> list[str]:
    """The metrics that are shown, the headline metric last: `reward` only if it is the only one."""
    names = list(names)
    return [name for name in names if name != "reward"] or names


def by_group(metrics: Sequence[Metrics], groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """`summarize` for each group, shorter names first, so that "9 blanks" comes before "10 blanks"."""
    members: dict[str, list[Metrics]] = {}
    for metric, group in zip(metrics, groups, strict=True):
        members.setdefault(group, []).append(metric)
    return {group: summarize(members[group]) for group in sorted(members, key=lambda name: (len(name), name))}


def worst(metrics: Sequence[Metrics], count: int) -> list[int]:
    """The places of up to `count` answers with the lowest headline metric, in order. Right answers are left out; if the
    metric is no accuracy, those that are as good as the best one."""
    name = shown(metrics[0])[-1]
    top = 1.0 if name.endswith("accuracy") else max(metric[name] for metric in metrics)
    places = [place for place, metric in enumerate(metrics) if metric[name] < top]
    return sorted(sorted(places, key=lambda place: (metrics[place][name], metrics[place]["reward"]))[:count])
