"""The figures of a run's report. A figure is a list of panels, each an SVG of its own that a narrow page stacks."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.report.json_types import RunMetrics, Summary
from pipeline.report.run_metrics import STEPS, metric_names, sampler_title, scalars
from pipeline.report.svg import Label, Panel, colors, label_ends, logarithmic, rounds_and_percent

LABELS = {"cpu_seconds": "CPU seconds", "kl": "exact KL", "kl_jump_1": "KL of jump 1", "kl_jump_2": "KL of jump 2"}
LINES = {"greedy": "-", "ancestral": ":", "ancestral_confidence": "--"}
DIAGNOSTICS = {
    "reward_mean": "mean reward of rollouts",
    "ess_mean": "effective sample size",
    "kl_to_base": "KL to base (nats)",
}
MOST_POINTS = 400
"""Losses drawn of a curve; of more updates, means of as many neighbours as needed."""


def words(name: str) -> str:
    """The name of a metric or a quantity as people read it."""
    return LABELS.get(name, name.replace("_", " "))


def learning_curve(metrics: RunMetrics) -> list[Panel]:
    """Every metric of the task over rounds, the headline first, by split and sampler, with a band of one standard
    error."""
    splits = metrics["evaluations"][0]["splits"]
    tints = dict(zip(splits, colors(len(splits)), strict=True))
    rounds = [entry["round"] for entry in metrics["evaluations"]]

    def draw(axis: Axes, name: str) -> None:
        labels = []
        for split, samplers in splits.items():
            for sampler in samplers:
                scores = [scalars(entry["splits"][split][sampler]) for entry in metrics["evaluations"]]
                text = f"{split}, {sampler_title(sampler)}"
                labels.append(_curve(axis, rounds, scores, name, text, tints[split], LINES[sampler]))
        axis.set_ylabel(words(name))
        rounds_and_percent(axis, name)
        label_ends(axis, labels)

    return [
        Panel(f"{words(name)} over rounds", partial(draw, name=name))
        for name in reversed(metric_names(metrics["base"]))
    ]


def mean_curve(points: Sequence[Summary], names: Sequence[str], seeds: int) -> list[Panel]:
    """Metrics of greedy decoding over rounds, mean over seeds with a band of one standard error."""

    def draw(axis: Axes) -> None:
        rounds = [point["round"] for point in points]
        tints = colors(len(names))
        labels = [
            _curve(axis, rounds, points, name, words(name), tint, "-") for name, tint in zip(names, tints, strict=True)
        ]
        axis.set_ylabel(f"mean of {seeds} seeds" if seeds > 1 else "one seed")
        rounds_and_percent(axis, names[0])
        label_ends(axis, labels)

    return [Panel(f"{' and '.join(map(words, names))} over rounds", draw)]


def _curve(
    axis: Axes, x: Sequence[float], scores: Sequence[Summary], name: str, text: str, color: str, line: str
) -> Label:
    mean, error = (np.array([score[key] for score in scores]) for key in (name, f"{name}_se"))
    axis.plot(x, mean, line, marker="o", markersize=3, linewidth=1.4, color=color)
    axis.fill_between(x, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
    return Label(x[-1], float(mean[-1]), text, color)


def diagnostics(metrics: RunMetrics) -> list[Panel]:
    """Mean reward, effective sample size, KL to the base and the method's step (τ or 1/α), over rounds; those that the
    method has."""
    rounds = [scalars(entry) for entry in metrics["rounds"]]
    known = DIAGNOSTICS | {key: STEPS[key] for key in ("tau", "inverse_alpha_total")}
    shown = {key: title for key, title in known.items() if rounds and key in rounds[0]}

    def draw(axis: Axes, key: str) -> None:
        error = [entry.get(key.replace("_mean", "") + "_se", 0) for entry in rounds]
        values = [entry[key] for entry in rounds]
        axis.errorbar([entry["round"] for entry in rounds], values, error, marker="o", markersize=3, color=colors(1)[0])
        axis.set_ylabel(shown[key])
        rounds_and_percent(axis, key)
        if key == "ess_mean":  # often the same in all rounds but for rounding
            axis.set_ylim(bottom=0)

    return [Panel(f"{shown[key]} over rounds", partial(draw, key=key)) for key in shown]


def losses(metrics: RunMetrics) -> list[Panel]:
    """The loss of the updates: pre-training of the base, and training over all rounds."""

    def base(axis: Axes) -> None:
        axis.plot(*_thinned(metrics["base_loss"]), linewidth=1, color=colors(1)[0])
        axis.set(ylabel="masked cross-entropy, base", xlabel="update")
        logarithmic(axis)

    def training(axis: Axes) -> None:
        done, tints = 0, colors(2)
        for number, entry in enumerate(metrics["rounds"]):
            place, loss = _thinned(entry["losses"], len(metrics["rounds"]))
            axis.plot(np.array(place) + done, loss, linewidth=1, color=tints[number % 2])
            done += len(entry["losses"])
        axis.set(ylabel="training loss", xlabel="update (colours alternate by round)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))

    panels = [Panel("loss of the base over updates", base)] if metrics["base_loss"] else []
    return panels + ([Panel("training loss over updates", training)] if metrics["rounds"] else [])


def _thinned(values: Sequence[float], curves: int = 1) -> tuple[list[float], list[float]]:
    """Places and means of neighbouring values, as many at a time that all curves have about `MOST_POINTS` points."""
    step = max(1, len(values) * curves // MOST_POINTS)
    blocks = [values[start : start + step] for start in range(0, len(values), step)]
    places = [start + (len(block) - 1) / 2 for start, block in zip(range(0, len(values), step), blocks, strict=True)]
    return places, [float(np.mean(block)) for block in blocks]


def exact(metrics: RunMetrics) -> list[Panel]:
    """KL(p* ‖ p^u) of the answers and of each jump, over rounds."""

    def draw(axis: Axes) -> None:
        rounds, labels = sorted(metrics["exact"]), []
        names = {"kl": "answers", "kl_jump_1": "jump 1", "kl_jump_2": "jump 2"}
        for (key, text), color in zip(names.items(), colors(3), strict=True):
            values = [metrics["exact"][number][key] for number in rounds]
            axis.plot(rounds, values, marker="o", markersize=3, color=color)
            labels.append(Label(rounds[-1], values[-1], text, color))
        axis.set_ylabel("exact KL(p* ‖ pᵘ), nats")
        logarithmic(axis)
        rounds_and_percent(axis, "kl")
        label_ends(axis, labels)

    return [Panel("exact KL over rounds", draw)]


def heat_maps(laws: Mapping[str, np.ndarray]) -> list[Panel]:
    """Probabilities [M, M], on one colour scale."""
    top = max(float(law.max()) for law in laws.values())

    def draw(axis: Axes, name: str) -> None:
        axis.imshow(laws[name], vmin=0, vmax=top, cmap="magma", interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()

    return [Panel(f"distribution of the answers, {name}", partial(draw, name=name)) for name in laws]


def timings(metrics: RunMetrics) -> list[Panel]:
    """Seconds of computation per stage and round."""
    stages = ("rollout", "reference", "adjoint", "train", "evaluate")

    def draw(axis: Axes) -> None:
        rounds = [entry["round"] for entry in metrics["rounds"]]
        bottom, labels = np.zeros(len(rounds)), []
        for stage, color in zip(stages, colors(len(stages)), strict=True):
            height = np.array([entry["seconds"].get(stage, 0.0) for entry in metrics["rounds"]])
            axis.bar(rounds, height, bottom=bottom, color=color, width=0.7)
            labels.append(Label(rounds[-1], float(bottom[-1] + height[-1] / 2), stage, color))
            bottom = bottom + height
        axis.set_ylabel("seconds, sum over shards")
        rounds_and_percent(axis, "seconds")
        label_ends(axis, labels)

    return [Panel("seconds of computation by stage and round", draw)] if metrics["rounds"] else []
