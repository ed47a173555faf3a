"""Send the curves of runs to a tracker: TensorBoard, trackio or W&B, through accelerate.

  python -m pipeline.report.track data/runs/mine --to tensorboard
  tensorboard --logdir data/tracking/tensorboard

`hardware.track: tensorboard` in params.yaml does it while Snakemake runs: this program follows the files of the runs,
in a process of its own, and whatever happens to it changes nothing in them. Each round and each evaluation is sent once
(`curves.records`). For TensorBoard it is an event file of its own, renamed into place: a kill leaves it complete or
absent. For the others a file of what has been sent is renamed into place after each; their run is resumed by its id.
A round that was computed anew replaces its event file, or begins another run.
"""

import argparse
import fcntl
import select
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import PipelineError
from pipeline.report.curves import Record, records
from pipeline.settings.params_file import read_params
from pipeline.storage.atomic_files import read_json, write_json

PROJECT = "discrete-adjoint-matching"
KINDS = ("tensorboard", "trackio", "wandb")
ROOT = Path("data/tracking")
SECONDS = 5.0
"""Between two looks at the files."""


class Tracker(Protocol):
    """Where the records of a run go. `ordered`: it takes no step that is smaller than the last."""

    ordered: bool

    def send(self, found: Sequence[Record]) -> None:
        """Send those of the records so far, `found`, that have not been sent."""


class EventFiles:
    """TensorBoard's: `events.out.tfevents.NUMBER.RECORD.DIGEST` in a directory of the run."""

    ordered = False

    def __init__(self, run: str):
        self.folder, self.making = ROOT / "tensorboard" / run, ROOT / f".{run}.tmp"

    def send(self, found: Sequence[Record]) -> None:
        """Write the records that have no file yet. The files are numbered in the order in which they are written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [(file.name.split(".")[3:], file) for file in self.folder.glob("events.*")]
        there = {name: (made_of, file) for (_, name, made_of), file in files}
        number = max((int(number) for (number, *_), _ in files), default=0)
        for record in found:
            made_of, old = there.get(record.name, ("", None))
            if made_of != record.made_of:
                number += 1
                made = self._write(record)
                if old:
                    old.unlink()
                made.replace(self.folder / f"events.out.tfevents.{number:06d}.{record.name}.{record.made_of}")

    def _write(self, record: Record) -> Path:
        from accelerate.tracking import TensorBoardTracker  # noqa: PLC0415  (imports PyTorch)

        for file in self.making.glob("*"):
            file.unlink()
        tracker = TensorBoardTracker("", self.making)
        tracker.start()
        for step, values in record.points:
            tracker.log(values, step)
        tracker.finish()
        (made,) = self.making.glob("*")
        return made


class Server:
    """trackio's or W&B's: a run with an id, and a file of the records that it has."""

    ordered = True

    def __init__(self, kind: str, run: str):
        self.kind, self.run, self.state = kind, run, ROOT / kind / f"{run}.json"
        self.tracker: Any = None

    def send(self, found: Sequence[Record]) -> None:
        """Resume the run, or begin another one if a record that it has was made anew."""
        state: dict[str, Any] = read_json(self.state, "id", "sent") if self.state.is_file() else {"id": "", "sent": {}}
        sent: dict[str, str] = state["sent"]
        if not state["id"] or any(sent.get(record.name, record.made_of) != record.made_of for record in found):
            state["id"], self.tracker = f"{self.run}-{uuid.uuid4().hex[:8]}", None
            sent.clear()
        for record in found:
            if record.name not in sent:
                self.tracker = self.tracker or self.open(state["id"])
                for step, values in record.points:
                    self.tracker.log(values, step)
                sent[record.name] = record.made_of
                write_json(self.state, state)

    def open(self, name: str) -> Any:
        """accelerate's tracker of the run with this id."""
        from accelerate.tracking import TrackioTracker, WandBTracker  # noqa: PLC0415  (imports PyTorch)

        if self.kind == "wandb":
            tracker: Any = WandBTracker(PROJECT, id=name, name=self.run, resume="allow")
        else:
            tracker = TrackioTracker(PROJECT, name=name, resume="allow")
        tracker.start()
        return tracker


def look(run: Path, tracker: Tracker, evaluated: Sequence[int]) -> None:
    """Send what is new. To a tracker that wants its steps in order, nothing behind an evaluation that is still due:
    `evaluated` are the rounds that the run evaluates, and evaluations wait for free processors."""
    found = list(records(run))
    names = {record.name for record in found}
    due = min((number for number in evaluated if f"evaluate_{number:03d}" not in names), default=None)
    if tracker.ordered and due is not None:
        found = [record for record in found if int(record.name.rpartition("_")[2]) <= due]
    tracker.send(found)


@contextmanager
def alone() -> Iterator[None]:
    """One process sends at a time: that of a Snakemake that was killed may still be at its last look."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def evaluated_rounds(params: Path, run: str) -> list[int]:
    """The rounds that a run evaluates; [] if params.yaml does not say."""
    try:
        settings = read_params(params).runs[run]
    except (PipelineError, KeyError):
        return []
    return settings.evaluate.rounds(settings.rounds)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="directories of runs, data/runs/NAME")
    parser.add_argument("--to", required=True, choices=KINDS)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="says which rounds are evaluated")
    parser.add_argument("--follow", action="store_true", help="go on until standard input is closed")
    args = parser.parse_args()
    if args.follow:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends Snakemake, and that closes standard input
    kind: Callable[[str], Tracker] = EventFiles if args.to == "tensorboard" else partial(Server, args.to)
    trackers = {run: kind(run.name) for run in args.runs}
    evaluated = {run: evaluated_rounds(args.params, run.name) for run in args.runs}
    last = not args.follow
    said: set[str] = set()
    while True:
        last = last or bool(select.select([sys.stdin], [], [], SECONDS)[0])
        for run, tracker in trackers.items():
            try:
                with alone():
                    look(run, tracker, evaluated[run])
            except Exception as error:  # a tracker's own, or a file that is being replaced
                line = f"{run.name}: not tracked: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
                if line not in said:
                    print(line, file=sys.stderr, flush=True)
                said.add(line)
        if last:
            sys.exit(1 if said and not args.follow else 0)


if __name__ == "__main__":
    main()
