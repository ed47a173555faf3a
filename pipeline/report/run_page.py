"""The report of a run: what its template shows, in the order of a reader's questions.

Did it work, how did it get there, what do answers look like, was training sound, and how was it made.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ValidationError

from pipeline.plugins import load_algorithm
from pipeline.report import figures
from pipeline.report.html import page, rendered
from pipeline.report.json_types import RunMetrics, Summary
from pipeline.report.run_metrics import STEPS, metric_names, sampler_title, scalars
from pipeline.report.samples import legend, samples_of, shared_wording
from pipeline.report.tables import Cells, cell
from pipeline.settings.run import Run
from pipeline.settings.stages import plain_json
from pipeline.tasks.base import EXACT
from pipeline.training.speed import speed_in_words
from pipeline.workflow.progress import duration

WHO = ("base", "policy")
DISK = {"buffers": "rollouts and targets", "optimizer": "optimiser states", "policies": "policies"}


class Change(NamedTuple):
    """A metric of the base and of the policy: as text, in words, and as shares of 1 for a bar (None: no share)."""

    name: str
    base: str
    final: str
    words: str
    shares: tuple[float, float] | None


def run_page(metrics: RunMetrics, settings: Run, laws: Mapping[str, np.ndarray] | None, unfinished: str = "") -> str:
    """The HTML of a run's report.

    Args:
        laws: of an enumerated task: the target, and the answers of base and policy.
        unfinished: what to say of a run that is not finished.
    """
    names = metric_names(metrics["base"])
    first, last = (metrics["evaluations"][place]["splits"] for place in (0, -1))
    shown = {
        "learning_curve": figures.learning_curve(metrics),
        "laws": figures.heat_maps(laws) if laws else [],
        "exact": figures.exact(metrics) if laws else [],
        "diagnostics": figures.diagnostics(metrics),
        "losses": figures.losses(metrics) + figures.timings(metrics),
    }
    return page(
        "report",
        metrics=metrics,
        settings=settings,
        paper=load_algorithm(settings.algorithm.name).paper,
        unfinished=unfinished,
        changes=changes(metrics),
        decodings=decodings(metrics),
        names=names,
        cell=cell,
        figures=rendered(shown),
        samples=samples_of(first, last, metrics["sampler"], names),
        legend=legend(last, metrics["sampler"]),
        wording="…\n".join(shared_wording(last, metrics["sampler"])).strip("…\n"),
        lengths=by_length(metrics, settings.rounds),
        groups=by_group(metrics),
        rounds=by_round(metrics),
        steps=[key for key in ("ess_mean", *STEPS) if metrics["rounds"] and key in metrics["rounds"][0]],
        configuration=configuration(settings),
        text=json.dumps(json.loads(plain_json(settings)), indent=2),
        provenance=provenance(metrics, settings),
    )


def changes(metrics: RunMetrics) -> list[Change]:
    """What the report begins with: the reward, the exact KL if there is one, and the task's own metrics, the headline
    first."""
    names = ["reward", EXACT[0], *reversed(metric_names(metrics["base"]))]
    base, final = metrics["base"], metrics["final"]
    return [change(base, final, name) for name in dict.fromkeys(names) if name in base and name in final]


def change(base: Summary, final: Summary, name: str) -> Change:
    """How a metric has changed, in units of the standard error of the difference, as if both were independent.

    "Worse" is said of rewards, accuracies and KLs only: of a task's other metrics the better direction is not known.
    """
    difference, error = final[name] - base[name], math.hypot(base.get(f"{name}_se", 0), final.get(f"{name}_se", 0))
    share, aims_low = name.endswith("accuracy"), name in EXACT
    size = f"{100 * abs(difference):.1f} points" if share else f"{abs(difference):.3g}"
    if abs(difference) <= 2 * error:
        words = f"no clear change: {size}, within two standard errors" if difference else "no change"
    else:
        worse = (difference > 0) if aims_low else (difference < 0) and (share or name == "reward")
        words = f"{'higher' if difference > 0 else 'lower'} by {size}{', which is worse' if worse else ''}"
    before, after = (cell({f"{name}_se": 0.0, **summary}, name) for summary in (base, final))
    return Change(figures.words(name), before, after, words, (base[name], final[name]) if share else None)


def decodings(metrics: RunMetrics) -> Cells:
    """Base → policy by split and way of decoding: the headline metric first."""
    names = list(reversed(metric_names(metrics["base"])))
    head = ["split, decoding", *(f"{figures.words(name)}: {who}" for name in names for who in WHO), "prompts"]
    lines = []
    last = metrics["evaluations"][-1]["splits"]
    for split, samplers in metrics["evaluations"][0]["splits"].items():
        for sampler, base in samplers.items():
            both = (scalars(base), scalars(last[split][sampler]))
            values = [cell(summary, name) for name in names for summary in both]
            lines.append([f"{split}, {_decoding(metrics, sampler)}", *values, str(both[0]["n"])])
    return [head, *lines]


def _decoding(metrics: RunMetrics, sampler: str) -> str:
    own = sampler == "ancestral" and not metrics["rollouts"]
    cached = ", block cache" if metrics.get("cache") else ""
    return ("the method's own" if own else sampler_title(sampler)) + cached


def by_length(metrics: RunMetrics, rounds: int) -> Cells:
    """The base's and the last round's metrics, if answers of several numbers of tokens were evaluated."""
    names = metric_names(metrics["base"])
    rows = [row for row in metrics["results"] if row["round"] in (0, rounds)]
    if len({row["length"] for row in rows}) < 2:
        return []
    head = ["round", "split", "decoding", "tokens", *map(figures.words, names)]
    return [head] + [
        [str(row["round"]), row["split"], _decoding(metrics, row["sampler"]), str(row["length"])]
        + [cell(row["metrics"], name) for name in names]
        for row in rows
    ]


def by_group(metrics: RunMetrics) -> Cells:
    """The headline metric by group of items; [] if the items have no groups."""
    name = metric_names(metrics["base"])[-1]
    last, lines = metrics["evaluations"][-1]["splits"], []
    for split, samplers in metrics["evaluations"][0]["splits"].items():
        for sampler, base in samplers.items():
            for group, row in base["groups"].items():
                after = last[split][sampler]["groups"][group]
                texts = [cell(row, name), cell(after, name)]
                lines.append([split, group, str(row["n"]), _decoding(metrics, sampler), *texts])
    named = any(line[1] for line in lines)
    head = ["split", "group", "prompts", "decoding", *(f"{figures.words(name)}: {who}" for who in WHO)]
    return [head, *lines] if named else []


def by_round(metrics: RunMetrics) -> Cells:
    """Diagnostics of every round, those that the method has."""
    if not metrics["rounds"]:
        return []
    has_ess = "ess_mean" in metrics["rounds"][0]
    steps = {key: title for key, title in STEPS.items() if key in metrics["rounds"][0]}
    sizes = ["ESS mean", "ESS min", "ESS < 2"] if has_ess else []
    head = ["round", "reward", *sizes, *steps.values(), "KL to base", "loss"]
    lines = []
    for entry in metrics["rounds"]:
        row: Mapping[str, Any] = {**entry}
        lines.append(
            [
                str(row["round"]),
                f"{row['reward_mean']:.3f} ± {row['reward_se']:.3f}",
                *(_sample_sizes(row) if has_ess else []),
                *(f"{row[key]:.3g}" for key in steps),
                f"{row['kl_to_base']:.2f} ± {row['kl_to_base_se']:.2f}",
                "" if row["loss"] is None else f"{row['loss']:.4f}",
            ]
        )
    return [head, *lines]


def _sample_sizes(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['ess_mean']:.2f}", f"{row['ess_min']:.2f}", f"{100 * row['ess_below_2']:.1f} %"]


def configuration(settings: Run) -> dict[str, list[tuple[str, str, str]]]:
    """Section -> (key, value, the default where it is another)."""
    sections: dict[str, list[tuple[str, str, str]]] = {"run": []}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            defaults = _defaults(value)
            sections[name] = [
                (key, found, "" if defaults.get(key, found) == found else defaults[key])
                for key, found in _texts(value).items()
            ]
        else:
            default = _text(type(settings).model_fields[name].get_default())
            sections["run"].append((name, _text(value), default if default != _text(value) else ""))
    return sections


def _defaults(section: BaseModel) -> dict[str, str]:
    """{} for a section that has none: one with a key that must be given."""
    try:
        named = {"name": section.name} if hasattr(section, "name") else {}
        return _texts(type(section)(**named))
    except ValidationError:
        return {}


def _texts(section: BaseModel) -> dict[str, str]:
    return {key: _text(value) for key, value in section.model_dump(mode="json").items()}


def _text(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def provenance(metrics: RunMetrics, settings: Run) -> dict[str, str]:
    """What the numbers depend on and what they cost."""
    time, result = metrics["time"], metrics["results"][-1]
    wall = time["computing"] + time["waiting"]
    found = {
        "code": f"revision {metrics['git']}",
        "seed": str(settings.seed),
        "processor or GPU": ", ".join(sorted({row["hardware"] for row in metrics["results"]})),
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "rollouts": f"{metrics['rollouts']:,}",
        "wall time": f"{duration(wall)}, {time['waiting_share']:.1%} of it starting processes and scheduling",
        "CPU time": f"{time['cpu_seconds']:,.0f} s in all processes, with data, base model and evaluation",
    }
    for stage, speed in time["speed"].items():
        unit = ", counting answer tokens" if stage == "rollout" else ""
        found[f"speed of {stage}"] = f"{speed_in_words(speed)} per process{unit}"
    sizes = ", ".join(f"{size / 1e6:.1f} MB of {DISK[kind]}" for kind, size in metrics["disk"].items())
    return found | {"on disk": f"{sizes} (keep in params.yaml says how much is kept)"}
