"""The report's figures: SVG text, marked as safe to put into HTML."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.json_types import EstimatorRow, FamilyRow, RunMetrics
from pipeline.report.run_metrics import STEPS, metric_names, sampler_title, scalars

LABELS = {"cpu_seconds": "CPU seconds", "kl": "exact KL", "kl_jump_1": "KL of jump 1", "kl_jump_2": "KL of jump 2"}
LINES = {"greedy": "-", "ancestral": ":", "ancestral_confidence": "--"}
matplotlib.rc("svg", fonttype="none", hashsalt="report")
matplotlib.rc("font", size=9)
matplotlib.rc("axes", grid=True)
matplotlib.rc("axes.spines", top=False, right=False)
matplotlib.rc("grid", alpha=0.25)


def learning_curve(metrics: RunMetrics) -> Markup:
    """Every metric of the task over rounds, by split and sampler, with a band of one standard error."""
    evaluations, names = metrics["evaluations"], metric_names(metrics["base"])
    rounds = [entry["round"] for entry in evaluations]
    figure, (axes,) = _panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        for split, samplers in evaluations[0]["splits"].items():
            for sampler in samplers:
                scores = [scalars(entry["splits"][split][sampler]) for entry in evaluations]
                mean, error = (np.array([score[key] for score in scores]) for key in (name, f"{name}_se"))
                line = axis.plot(
                    rounds, mean, LINES[sampler], marker="o", markersize=3, label=f"{split}, {sampler_title(sampler)}"
                )
                axis.fill_between(
                    rounds, mean - error, mean + error, color=line[0].get_color(), alpha=0.15, linewidth=0
                )
        axis.set(title=_words(name), xlabel="round")
        if name.endswith("accuracy"):
            axis.set_ylim(0, 1.02)
    axes[0].legend(frameon=False, fontsize=8)
    return _svg(figure)


def diagnostics(metrics: RunMetrics) -> Markup:
    """Mean reward, effective sample size, KL to the base and the method's step (τ or 1/α), over rounds."""
    panels = {
        "reward_mean": "mean reward of rollouts",
        "ess_mean": "effective sample size",
        "kl_to_base": "KL to base (nats)",
    }
    rounds = [scalars(entry) for entry in metrics["rounds"]]
    panels |= {key: STEPS[key] for key in ("tau", "inverse_alpha_total") if rounds and key in rounds[0]}
    figure, (axes,) = _panels(len(panels))
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        error = [entry.get(key.replace("_mean", "") + "_se", 0) for entry in rounds]
        values = [entry[key] for entry in rounds]
        axis.errorbar([entry["round"] for entry in rounds], values, error, marker="o", markersize=3)
        axis.set(title=title, xlabel="round")
    return _svg(figure)


def losses(metrics: RunMetrics) -> Markup:
    """The loss of every update: pre-training of the base, and training over all rounds."""
    figure, (axes,) = _panels(2)
    axes[0].plot(metrics["base_loss"], linewidth=0.8)
    axes[0].set(title="base: masked cross-entropy", xlabel="update", yscale="log")
    done = 0
    for entry in metrics["rounds"]:
        axes[1].plot(range(done, done + len(entry["losses"])), entry["losses"], linewidth=0.8)
        done += len(entry["losses"])
    axes[1].set(title="training loss, one colour per round", xlabel="update")
    return _svg(figure)


def exact(metrics: RunMetrics) -> Markup:
    """KL(p* ‖ p^u) of the answers and of each jump, over rounds."""
    figure, ((axis,),) = _panels(1)
    rounds = sorted(metrics["exact"])
    for key, label in {"kl": "answers", "kl_jump_1": "jump 1", "kl_jump_2": "jump 2"}.items():
        axis.plot(rounds, [metrics["exact"][k][key] for k in rounds], marker="o", markersize=3, label=label)
    axis.set(title="exact KL(p* ‖ p^u)", xlabel="round", yscale="log")
    axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def heat_maps(laws: Mapping[str, np.ndarray]) -> Markup:
    """Probabilities [M, M] side by side, on one colour scale, six in a row."""
    figure, grid = _panels(min(len(laws), 6), -(-len(laws) // 6), height=2.9)
    top = max(float(law.max()) for law in laws.values())
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, (name, law) in zip(grid.flat, laws.items(), strict=False):
        axis.imshow(law, vmin=0, vmax=top, cmap="magma", interpolation="nearest")
        axis.set_title(name, fontsize=8)
    return _svg(figure)


def comparison(rows: Sequence[FamilyRow]) -> Markup:
    """A line of panels for each task: the headline metric of every family against rollouts and against CPU seconds; on
    enumerated tasks also the KL of each jump over rounds. The legend names the ten families that end best."""
    tasks: dict[str, list[FamilyRow]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    enumerated = any(row["headline"] == "kl" for row in rows)
    figure, grid = _panels(4 if enumerated else 2, len(tasks), height=3.2)
    for line, (task, families) in zip(grid, tasks.items(), strict=True):
        name = families[0]["headline"]
        panels = [("rollouts", name), ("cpu_seconds", name), ("round", "kl_jump_1"), ("round", "kl_jump_2")]
        sign = 1 if name == "kl" else -1
        best = [row["run"] for row in sorted(families, key=lambda row: sign * row["final"][name])[:10]]
        for axis, (across, key) in zip(line, panels, strict=False):
            for color, row in zip(_colors(len(families)), families, strict=True):
                if key in row["final"]:
                    _curve(axis, row, across, key, row["run"] if row["run"] in best else None, color)
            axis.set(title=f"{task}: {_words(key)}", xlabel=_words(across), yscale="log" if "kl" in key else "linear")
        known = line[0].get_legend_handles_labels()
        line[-1].legend(*known, frameon=False, fontsize=6, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return _svg(figure)


def _curve(axis: Axes, row: FamilyRow, across: str, key: str, label: str | None, color: np.ndarray) -> None:
    """One family in one panel, with a band of one standard error that stays positive for logarithmic axes."""
    points = row["curve"]
    if len(points) == 1:
        axis.axhline(row["final"][key], linestyle="--", linewidth=1, color=color, label=label)
        return
    mean, error = (np.array([point[name] for point in points]) for name in (key, f"{key}_se"))
    place = [point[across] for point in points]
    axis.plot(place, mean, marker="o", markersize=2, linewidth=1, color=color, label=label)
    lower = np.maximum(mean - error, mean / 2)
    axis.fill_between(place, lower, mean + error, color=color, alpha=0.15, linewidth=0)


def _words(name: str) -> str:
    """The name of a metric or a quantity as the figures write it."""
    return LABELS.get(name, name.replace("_", " "))


def _colors(count: int) -> np.ndarray:
    """RGBA [count, 4]"""
    if count <= 10:
        return matplotlib.colormaps["tab10"](range(count))
    return matplotlib.colormaps["turbo"]([number / count for number in range(count)])


def estimators(rows: Sequence[EstimatorRow]) -> Markup:
    """Squared bias and variance of each estimator of the adjoint target against K, under two policies. Squared biases
    that do not exceed twice the noise of their measurement are left out."""
    figure, grid = _panels(4, height=3.2)
    panels = [(policy, measure) for policy in ("base", "last") for measure in ("bias", "variance")]
    for axis, (policy, measure) in zip(grid[0], panels, strict=True):
        for name in dict.fromkeys(row["estimator"] for row in rows):
            here = [row for row in rows if (row["policy"], row["estimator"]) == (policy, name)]
            if measure == "bias":
                here = [row for row in here if row["bias"] > 2 * row["bias_noise"]]
            value = [row["bias"] if measure == "bias" else row["variance"] for row in here]
            axis.plot([row["completions"] for row in here], value, marker="o", markersize=3, label=name)
        title = "squared bias" if measure == "bias" else "variance"
        axis.set(title=f"{title}, {policy} policy", xlabel="K", xscale="log", yscale="log")
    grid[0][1].legend(frameon=False, fontsize=8)
    return _svg(figure)


def timings(metrics: RunMetrics) -> Markup:
    """Seconds of computation per stage and round."""
    figure, ((axis,),) = _panels(1)
    rounds = [entry["round"] for entry in metrics["rounds"]]
    bottom = np.zeros(len(rounds))
    for stage in ("rollout", "reference", "adjoint", "train", "evaluate"):
        height = [entry["seconds"].get(stage, 0.0) for entry in metrics["rounds"]]
        axis.bar(rounds, height, bottom=bottom, label=stage)
        bottom = bottom + height
    axis.set(title="seconds per stage (sum over shards)", xlabel="round")
    axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _panels(columns: int, rows: int = 1, *, height: float = 2.6) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns]."""
    size = (max(4.5, 3.0 * columns), height * rows)
    figure = Figure(size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _svg(figure: Figure) -> Markup:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])
