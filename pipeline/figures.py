"""The report's figures as SVG text."""

import io
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def learning_curve(metrics: dict[str, Any]) -> str:
    """Every accuracy of the task over rounds, by split and sampler, with a band of one standard error."""
    evaluations = metrics["evaluations"]
    names = [name for name in metrics["base"] if f"{name}_se" in metrics["base"] and name != "reward"]
    figure, axes = _panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        for split in evaluations[0]:
            for sampler, line in (("greedy", "-"), ("ancestral", ":")):
                rounds = sorted(evaluations)
                mean = [evaluations[k][split][sampler][name] for k in rounds]
                error = [evaluations[k][split][sampler][f"{name}_se"] for k in rounds]
                (drawn,) = axis.plot(rounds, mean, line, marker="o", markersize=3, label=f"{split}, {sampler}")
                band = [(m - e, m + e) for m, e in zip(mean, error, strict=True)]
                axis.fill_between(rounds, *zip(*band, strict=True), color=drawn.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=name.replace("_", " "), xlabel="round", ylim=(0, 1.02))
    axes[0].legend(frameon=False, fontsize=8)
    return _svg(figure)


def diagnostics(metrics: dict[str, Any]) -> str:
    """Mean reward, ESS, KL to the base and the tilt spent, over rounds."""
    panels = {
        "reward_mean": "mean reward of rollouts",
        "ess_mean": "effective sample size",
        "kl_to_base": "KL to base (nats)",
        "inverse_alpha_total": "1/α aimed at",
    }
    figure, axes = _panels(len(panels))
    rounds = [entry["round"] for entry in metrics["rounds"]]
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        values = [entry[key] for entry in metrics["rounds"]]
        axis.errorbar(
            rounds,
            values,
            [entry.get(key.replace("_mean", "") + "_se", 0) for entry in metrics["rounds"]],
            marker="o",
            markersize=3,
        )
        axis.set(title=title, xlabel="round")
    return _svg(figure)


def losses(metrics: dict[str, Any]) -> str:
    """The loss of every update: pre-training of the base, and matching over all rounds."""
    figure, axes = _panels(2)
    axes[0].plot(metrics["base_loss"], linewidth=0.8)
    axes[0].set(title="base: masked cross-entropy", xlabel="update", yscale="log")
    done = 0
    for entry in metrics["rounds"]:
        axes[1].plot(range(done, done + len(entry["losses"])), entry["losses"], linewidth=0.8)
        done += len(entry["losses"])
    axes[1].set(title="matching loss, a colour per round", xlabel="update")
    return _svg(figure)


def exact(metrics: dict[str, Any]) -> str:
    """KL(p* ‖ p^u) of the answers and of each jump, over rounds."""
    figure, (axis,) = _panels(1)
    rounds = sorted(metrics["exact"])
    for key, label in {"kl": "answers", "kl_jump_1": "jump 1", "kl_jump_2": "jump 2"}.items():
        axis.plot(rounds, [metrics["exact"][k][key] for k in rounds], marker="o", markersize=3, label=label)
    axis.set(title="KL(p* ‖ p^u), exact", xlabel="round", yscale="log")
    axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def heat_maps(laws: dict[str, Any]) -> str:
    """Probabilities [M, M] side by side, in one scale."""
    figure, axes = _panels(len(laws))
    top = max(float(law.max()) for law in laws.values())
    for axis, (name, law) in zip(axes, laws.items(), strict=True):
        axis.imshow(law, vmin=0, vmax=top, cmap="magma", interpolation="nearest")
        axis.set(title=name, xticks=[], yticks=[])
        axis.grid(False)
    return _svg(figure)


def comparison(families: dict[str, Any]) -> str:
    """The headline metric of several families of runs against rollouts and seconds, a band of one standard error."""
    figure, axes = _panels(2)
    for column, (axis, title) in enumerate(zip(axes, ("rollouts", "seconds of rounds"), strict=True)):
        for name, curve in families.items():
            if curve["points"]:
                place, mean, error = zip(*((p[column], p[2], p[3]) for p in curve["points"]), strict=True)
                (drawn,) = axis.plot(place, mean, marker="o", markersize=2, label=name)
                band = [(max(m - e, m / 2), m + e) for m, e in zip(mean, error, strict=True)]
                axis.fill_between(place, *zip(*band, strict=True), color=drawn.get_color(), alpha=0.15, linewidth=0)
        metric = next(iter(families.values()))["metric"]
        axis.set(title=f"{metric} against {title}", yscale="log" if metric == "kl" else "linear")
    axes[0].legend(frameon=False, fontsize=6)
    return _svg(figure)


def timings(metrics: dict[str, Any]) -> str:
    """Seconds of computation per stage and round."""
    figure, (axis,) = _panels(1)
    rounds = [entry["round"] for entry in metrics["rounds"]]
    bottom = [0.0] * len(rounds)
    for stage in ("rollout", "adjoint", "train", "evaluate"):
        height = [entry["seconds"].get(stage, 0.0) for entry in metrics["rounds"]]
        axis.bar(rounds, height, bottom=bottom, label=stage)
        bottom = [b + h for b, h in zip(bottom, height, strict=True)]
    axis.set(title="seconds per stage (shards added up)", xlabel="round")
    axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _panels(count: int) -> tuple[Any, Any]:
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(1, count, figsize=(max(4.5, 3.0 * count), 2.6), squeeze=False, layout="constrained")
    return figure, axes[0]


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
