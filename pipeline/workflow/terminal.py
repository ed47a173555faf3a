"""What a running Snakemake shows: a line for each round with the time that is left, and errors on other machines.

Errors on this one are shown by the jobs' shells. Everything else that stages print, progress bars among it, goes to
their logs alone. On a terminal the last line is the newest progress bar of all logs.
"""

import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.settings.params_file import Params
from pipeline.workflow.progress import LEGEND, Job, Progress, duration, modified
from pipeline.workflow.rules import log_text

EVENTS = {"JOB_FINISHED", "PROGRESS", "RESOURCES_INFO"}
MESSAGES = ("Select jobs to execute", "Execute ", "Shutting down, ")
STATUS = re.compile(r"RuleException:\s+CalledProcessError in file .* returned non-zero exit status \d+", re.DOTALL)
"""What Snakemake says of a job whose shell exits with a status: the whole command. Its shell has said what is wrong."""
ENDING = ("Elapsed time", "WorkflowError:\nAt least one job did not complete successfully")
"""What it says last, after "Exiting because a job execution failed" and the path of its log."""
INTERVAL = 1.0
"""Seconds between two looks at the files."""
FAILURE = "Traceback (most recent call last)"
OF_A_RANK = re.compile(r"^\[rank\d+\]: (?=Traceback )", re.MULTILINE)
"""What PyTorch puts before each line of a rank's traceback."""


class OfSingleJobs(logging.Filter):
    """Leaves out what Snakemake says of single jobs and of its resources, and the table of jobs where a dry run repeats
    it; its log file keeps all. What is wrong with the workflow itself stays."""

    table = ""

    def filter(self, record: logging.LogRecord) -> bool:
        event, text = getattr(getattr(record, "event", None), "name", ""), str(record.msg)
        if event == "RUN_INFO":
            repeated, self.table = text == self.table, text
            return not repeated
        return event not in EVENTS and not text.startswith(MESSAGES) and not STATUS.match(text)


class OfTheEnd(logging.Filter):
    """Leaves out what only says once more that a job has failed."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(ENDING)


def leave_out(workflow: Any, what: logging.Filter) -> None:
    """On the terminal, unless Snakemake is asked to say more than profiles/default does (`--quiet host`), or shows what
    it says by a logger plug-in of the user's."""
    if "RULES" in {level.name for level in workflow.output_settings.quiet or ()}:
        for handler in workflow.logger_manager.logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(what)


def pending_jobs(workflow: Any) -> dict[Path, Job]:
    """The jobs that Snakemake is about to run, by the timing that each will write."""
    found = {}
    for job in workflow.dag.needrun_jobs(exclude_finished=False):
        wildcards = job.wildcards_dict
        if timing := getattr(job.output, "timing", None):
            name = wildcards.get("run") or wildcards.get("suite", "")
            found[Path(timing)] = Job(name, job.rule.name, int(wildcards.get("round", 0)))
    return found


class Terminal:
    """Prints from a thread of its own, between `start` and `stop`."""

    def __init__(self, params: Params):
        self.params, self.started = params, time.time()
        self.logs: dict[Path, Path] = {}
        self.changed: list[Path] = []
        self.seen: dict[Path, float] = {}
        self.said: set[str] = set()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def start(self, jobs: Mapping[Path, Job], *, errors: bool) -> None:
        """Watch the files of these jobs; print the error lines of their logs, too, if nothing else does."""
        self.errors = errors
        self.progress = Progress(self.params, jobs, self.started)
        self.logs = {path.parent.parent / "logs" / f"{path.stem}.log": path for path in jobs}
        self.titled = len({job.run for job in jobs.values()}) > 1
        self.thread.start()

    def stop(self) -> None:
        """Say what is still to be said; of a job that ended in a traceback, its end, unless Ctrl-C ended it."""
        self.stopped.set()
        self.thread.join()
        self._look()
        for log, timing in self.logs.items():
            text = log_text(log) if log in self.seen and timing in self.progress.pending else ""
            if FAILURE in text and not errors_of(text) and not text.rstrip().endswith(KeyboardInterrupt.__name__):
                print(f"{log} ends in\n{last_traceback(text)}", file=sys.stderr)

    def _watch(self) -> None:
        while not self.stopped.wait(INTERVAL):
            self._look()
            self._show_bar()

    def _look(self) -> None:
        """Print what has happened since the last look."""
        for line in [*self._rounds(), *self._errors()]:
            self._to_terminal("")
            print(line, flush=True)

    def _rounds(self) -> Iterator[str]:
        for job in self.progress.finished():
            title = f"{job.run}  " if self.titled else ""
            if job.rule == "base":
                yield f"{title}base model ready"
            elif job.rule == "train":
                yield from {LEGEND} - self.said
                self.said.add(LEGEND)
                try:
                    yield f"{title}{self.progress.round_line(job)}{self._left()}"
                except PipelineError as error:
                    yield f"{title}round {job.round}: {error}"

    def _left(self) -> str:
        left = self.progress.seconds_left(time.time())
        return f"  {duration(left)} left" if left is not None and self.progress.pending else ""

    def _errors(self) -> Iterator[str]:
        """The error lines of the changed logs that have not been printed yet, each with the name of its log."""
        times = {log: modified(log) for log in self.logs}
        changed = [log for log, moment in times.items() if moment > max(self.started, self.seen.get(log, 0.0))]
        self.changed = sorted(changed, key=times.__getitem__)
        for log in self.changed:
            self.seen[log] = times[log]
            lines = errors_of(log_text(log)) if self.errors else []
            for line in dict.fromkeys(f"{line} [{log}]" for line in lines):
                if line not in self.said:
                    self.said.add(line)
                    yield line

    def _show_bar(self) -> None:
        if self.changed and sys.stderr.isatty():
            lines = log_text(self.changed[-1]).replace("\r", "\n").splitlines()
            self._to_terminal(next((line for line in reversed(lines) if "%|" in line), ""))

    @staticmethod
    def _to_terminal(text: str) -> None:
        """Replace the last line of a terminal; the next line that is printed overwrites it."""
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\x1b[K{text[:width]}\r", end="", file=sys.stderr, flush=True)


def last_traceback(text: str) -> str:
    """From the last traceback of a log to its end; if there is one of a rank, of the first such rank alone, since what
    follows it is the launcher's."""
    found = OF_A_RANK.search(text)
    if found:
        text = "\n".join(line.removeprefix(found[0]) for line in text.splitlines() if line.startswith(found[0]))
    return text[text.rindex(FAILURE) :].rstrip()


def errors_of(text: str) -> list[str]:
    """The error lines of a log."""
    return [line for line in text.splitlines() if line.startswith("error:")]
