"""Starts the program that sends the curves of runs to a tracker while Snakemake runs (`hardware.track`)."""

import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from pipeline.settings.project import Tracker

LOG = Path("data/tracking/log")
PATIENCE = 60.0
"""Seconds that Snakemake waits at its end for what is still to be sent."""


class Follower:
    """`pipeline.report.track` beside Snakemake: it ends when its standard input is closed, by `stop` or a kill."""

    def __init__(self, kind: Tracker | None):
        self.kind = kind
        self.running: subprocess.Popen[bytes] | None = None

    def start(self, runs: Iterable[str]) -> None:
        """Follow these runs. A tracker that is not there is a note, no error."""
        if self.kind is None or not (folders := [f"data/runs/{run}" for run in sorted(runs)]):
            return
        if find_spec(self.kind) is None:
            advice = f"pip install {self.kind}"
            print(
                f"note: hardware.track: {self.kind} is not installed, so nothing is tracked: {advice}", file=sys.stderr
            )
            return
        command = [sys.executable, "-m", "pipeline.report.track", *folders, "--to", self.kind, "--follow"]
        try:
            LOG.parent.mkdir(parents=True, exist_ok=True)
            with LOG.open("ab") as log:
                self.running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        except OSError as error:
            print(f"note: hardware.track: nothing is tracked: {error}", file=sys.stderr)

    def stop(self) -> None:
        """Let it send what is still to be sent, but not for ever."""
        if self.running and self.running.stdin:
            self.running.stdin.close()
            try:
                self.running.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                print(f"note: hardware.track: {self.kind} takes too long; the rest is in {LOG}", file=sys.stderr)
                with suppress(OSError):
                    self.running.kill()
