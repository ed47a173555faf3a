"""A run's curves, from the files that its stages leave: what a tracker shows of each round and of each evaluation.

The x axis of all curves is the number of updates so far, summed over the rounds: a point's place depends on the run's
files alone, so that one sent before a kill is the same as one sent after it. The statistics of a round's rollouts
belong to the policy that drew them, and so to the updates before the round.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.report.run_metrics import scalars
from pipeline.storage.atomic_files import digest, read_json
from pipeline.training.speed import speed

Values = dict[str, float | str]


@dataclass(frozen=True)
class Record:
    """Points that are sent together, (step, values) each, and a digest of the files that they come from."""

    name: str
    made_of: str
    points: Sequence[tuple[int, Values]]


def records(run: Path) -> Iterator[Record]:
    """A record of each round's training and one of each evaluation, in the order of the updates, up to the first round
    that has not trained."""
    step = 0
    yield from _evaluation(run, 0, step)
    for number in count(1):
        folder = run / f"round_{number:03d}"
        files = [folder / "adjoint.json", folder / "train.json"]
        if not all(file.is_file() for file in files):
            return
        rollouts, losses = read_json(files[0]), read_json(files[1], "losses")["losses"]
        before: Values = {f"rollout/{key}": value for key, value in scalars(rollouts).items()}
        for stage in ("rollout", "train"):
            before |= {f"speed/{stage}_{key}": value for key, value in _speed(run, stage, number).items()}
        after: Values = {"train/round": number, "train/mean_loss": sum(losses) / max(1, len(losses))}
        updates: list[tuple[int, Values]] = [(step + k, {"train/loss": loss}) for k, loss in enumerate(losses, start=1)]
        points = [(step, before), *updates[:-1]]
        step += len(losses)
        points.append((step, {**(updates[-1][1] if updates else {}), **after}))
        yield Record(f"train_{number:03d}", digest(*files)[:12], points)
        yield from _evaluation(run, number, step)


def _evaluation(run: Path, number: int, step: int) -> Iterator[Record]:
    """The metrics of every split and sampler, the exact KL, and sample completions."""
    file = run / f"round_{number:03d}" / "evaluation.json"
    if not file.is_file():
        return
    found = read_json(file, "splits", "exact")
    values: Values = {f"exact/{key}": value for key, value in scalars(found["exact"]).items()}
    for split, samplers in found["splits"].items():
        for sampler, summary in samplers.items():
            shown = {key: value for key, value in scalars(summary).items() if key != "n"}
            values |= {f"{split}/{sampler}/{key}": value for key, value in shown.items()}
            values[f"{split}/{sampler}/samples"] = "\n\n".join(map(_sample, summary.get("samples", [])))
    yield Record(f"evaluate_{number:03d}", digest(file)[:12], [(step, values)])


def _sample(sample: Mapping[str, Any]) -> str:
    """A prompt, the answer, and its metrics; four spaces make Markdown keep the lines."""
    metrics = ", ".join(f"{key} {value:.3g}" for key, value in scalars(sample).items())
    lines = f"{sample['puzzle']}\n→\n{sample['answer']}\n({metrics})".splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _speed(run: Path, stage: str, number: int) -> dict[str, float]:
    """Tokens/s and so on of a stage in a round; {} if it was not measured."""
    measured = []
    for file in sorted((run / "timings").glob(f"{stage}_{number:03d}*.json")):
        try:
            measured.append(read_json(file)["measured"])
        except (PipelineError, KeyError):
            continue
    return speed(measured) if measured else {}
