"""What is checked before anything runs, dry runs included, in processes that can be stopped. Torch-free.

One makes a run's items with the task's own code, which may hang, and tokenizes their prompts as rules do. Another
imports a user's own model, to see whether it can do what the run asks.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.plugins import load_task
from pipeline.settings.run import Run, features_asked
from pipeline.settings.stages import settings_json
from pipeline.tasks.data import Data
from pipeline.workflow.rules import prompt_limits

SECONDS = 60.0
"""How long a check may take: ten thousand prompts take some ten seconds, of which three are imports."""
CHECK = (sys.executable, "-m", "pipeline.stages.early_checks")
ERROR = "error: "


def check_items(name: str, runs: Mapping[str, Run], origins: Mapping[str, str], checkpoint: Path | None) -> None:
    """Check the items of a run, and of all runs that share its base, also against the checkpoint if it is at hand.

    Raises:
        PipelineError: for data that cannot be read and for a prompt that the model cannot take; it names the row.
    """
    run = runs[origins[name]]
    if not _at_hand(run):
        return
    command = [*CHECK, "items", "--settings", settings_json(run, "base")]
    command += ["--limits", prompt_limits(origins[name], runs, origins)]
    command += ["--reward-timeout", str(run.rollout.reward_timeout)]
    if checkpoint and (checkpoint / "tokenizer.json").is_file():
        command += ["--checkpoint", str(checkpoint)]
    said = _said(command)
    if said is None:
        print(f"note: {name}: its items and reward took longer than {SECONDS:g} s; rules check them", file=sys.stderr)
    else:
        _refuse(said)


def check_model(run: Run) -> None:
    """PipelineError if the run's model is a user's own that cannot be imported, or lacks what the run asks for."""
    if "." in run.model.name:
        _refuse(_said_of_model(run.model.name, tuple(features_asked(run))) or "")


@cache
def _said_of_model(model: str, asked: tuple[str, ...]) -> str | None:
    return _said([*CHECK, "model", model, *asked])


def _refuse(said: str) -> None:
    """PipelineError if what a check said is an error."""
    if said.startswith(ERROR):
        raise PipelineError(said.removeprefix(ERROR))


def _at_hand(run: Run) -> bool:
    """Whether to check the items: those from a user's own code and from files. Not those from the Hub, which would be
    downloaded, nor those of a generator of this package, whose prompts are all alike."""
    data, items = getattr(run.task, "data", None), load_task(run.task.name).items
    if isinstance(data, Data) and getattr(items, "__module__", "").startswith("pipeline.tasks."):
        return data.path is not None and data.test_hub is None
    return "." in run.task.name


def _said(command: list[str]) -> str | None:
    """The last error that the command writes to its standard error, or else the last line, "" if there is none; None
    if it takes longer than `SECONDS`."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        lines = process.communicate(timeout=SECONDS)[1].decode(errors="replace").splitlines()
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what a user's code has started
        process.wait()
    errors = [line for line in lines if line.startswith(ERROR)]
    return (errors or lines or [""])[-1]
