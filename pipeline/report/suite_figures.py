"""The figures of a suite's report."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from pipeline.report.figures import words
from pipeline.report.json_types import EstimatorRow, FamilyRow
from pipeline.report.svg import Label, Panel, beside, colors, label_ends, logarithmic, rounds_and_percent, standalone

NAMED = 10
"""How many families have their names beside their curves: those that end best."""


def comparison(rows: Sequence[FamilyRow]) -> dict[str, list[Panel]]:
    """For each task, the headline metric of every family against rollouts and against CPU seconds; on enumerated tasks
    also the KL of each jump over rounds."""
    tasks: dict[str, list[FamilyRow]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    return {task: _panels(families) for task, families in tasks.items()}


def suite_svg(figures: Mapping[str, Sequence[Panel]]) -> str:
    """The panels of all tasks in a file of their own, a line for each task."""
    every = [panel for panels in figures.values() for panel in panels]
    return standalone(beside(every, columns=max(map(len, figures.values()))))


def _panels(families: Sequence[FamilyRow]) -> list[Panel]:
    name = families[0]["headline"]
    asked = [("rollouts", name), ("cpu_seconds", name), ("round", "kl_jump_1"), ("round", "kl_jump_2")]
    return [
        Panel(f"{words(key)} over {words(across)}", partial(_draw, families=families, across=across, key=key))
        for across, key in asked
        if any(key in row["final"] for row in families)
    ]


def _draw(axis: Axes, families: Sequence[FamilyRow], across: str, key: str) -> None:
    name = families[0]["headline"]
    best = sorted(families, key=lambda row: row["final"][name] * (1 if name == "kl" else -1))[:NAMED]
    shown = [row for row in families if key in row["final"]]
    axis.set(ylabel=words(key), xlabel=words(across))
    tints = dict(zip([row["run"] for row in best], colors(len(best)), strict=True))
    labels = [_curve(axis, row, across, key, tints.get(row["run"], colors(9)[8])) for row in shown]
    if "kl" in key:
        logarithmic(axis)
    rounds_and_percent(axis, key, rounds=across == "round")
    label_ends(axis, [label for label in labels if label.text in tints])


def _curve(axis: Axes, row: FamilyRow, across: str, key: str, color: str) -> Label:
    """One family in one panel, with a band of one standard error that stays positive for logarithmic axes."""
    points = row["curve"]
    if len(points) == 1:
        axis.axhline(row["final"][key], linestyle="--", linewidth=1, color=color)
        return Label(math.nan, row["final"][key], row["run"], color)
    mean, error = (np.array([point[name] for point in points]) for name in (key, f"{key}_se"))
    place = [point[across] for point in points]
    axis.plot(place, mean, marker="o", markersize=2, linewidth=1.2, color=color)
    lower = np.maximum(mean - error, mean / 2)
    axis.fill_between(place, lower, mean + error, color=color, alpha=0.15, linewidth=0)
    return Label(place[-1], float(mean[-1]), row["run"], color)


def estimators(rows: Sequence[EstimatorRow]) -> list[Panel]:
    """Squared bias and variance of each estimator of the adjoint target against K, under two policies. Squared biases
    that do not exceed twice the noise of their measurement are left out."""

    def draw(axis: Axes, policy: str, measure: str) -> None:
        names, labels = list(dict.fromkeys(row["estimator"] for row in rows)), []
        for name, color in zip(names, colors(len(names)), strict=True):
            here = [row for row in rows if (row["policy"], row["estimator"]) == (policy, name)]
            if measure == "bias":
                here = [row for row in here if row["bias"] > 2 * row["bias_noise"]]
            value = [row["bias"] if measure == "bias" else row["variance"] for row in here]
            axis.plot([row["completions"] for row in here], value, marker="o", markersize=3, color=color)
            if here:
                labels.append(Label(here[-1]["completions"], value[-1], name, color))
        title = "squared bias" if measure == "bias" else "variance"
        axis.set(ylabel=f"{title}, {policy} policy", xlabel="K", xscale="log")
        logarithmic(axis)
        label_ends(axis, labels)

    return [
        Panel(f"{measure} of the estimators, {policy} policy", partial(draw, policy=policy, measure=measure))
        for policy in ("base", "last")
        for measure in ("bias", "variance")
    ]
