"""What the jobs of a run are made with: digests of code, data and checkpoints. A change in them reruns the job."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from pipeline.settings.project import Suite
from pipeline.settings.run import Run
from pipeline.settings.stages import STAGES, settings_json
from pipeline.storage.atomic_files import digest, sha256_of
from pipeline.storage.fingerprint import checkpoint_digest
from pipeline.storage.provenance import MadeWith, made_with, origin_of
from pipeline.tasks.data import Data
from pipeline.workflow.code_digest import code_digest

CHECKPOINT = "checkpoint:"
"""The beginning of a checkpoint's digest in what rule `base` is made with."""


def code_and_data(stage: str, run: Run, name: str) -> str:
    """What a job is made with beside its settings and files: a digest of its code, and for `prepare` and `base` the
    digests of the data and checkpoint that they read, for `reference` the number of rollouts to replay."""
    beside = ""
    if stage == "prepare":
        beside = data(run)
    elif stage == "base":
        beside = f"{_digests([run.base.file])} {_checkpoint(run.base.path, name)}".strip()
    elif stage == "reference":
        beside = str(run.algorithm.replayed(run.rollout))
    return f"{code_digest(stage, run)} {beside}".rstrip()


def imported_base(run: Run, name: str) -> Path | None:
    """Where rule `base` of the run `name` has put its base model; None if it has not done so with these settings."""
    wanted = made_with("base", settings_json(run, "base"), "")["settings"]
    made = origin_of(Path("data/runs", name, "timings/base.json"))
    return Path("data/runs", name, "round_000/policy") if made.get("settings") == wanted else None


def code_and_suite(suite: Suite) -> str:
    """As `code_and_data`, for a suite's report: digests of its code and its section."""
    return f"{code_digest('compare')} {digest(suite.model_dump_json())[:16]}"


def expected_of(run: Run, name: str) -> Callable[[str], MadeWith | None]:
    """A function from a stage to what a job of this run would be made with now, None for an unknown stage."""

    @cache
    def found(stage: str) -> MadeWith | None:
        return made_with(stage, settings_json(run, stage), code_and_data(stage, run, name)) if stage in STAGES else None

    return found


def expected_of_suite(suite: Suite) -> Callable[[str], MadeWith | None]:
    """As `expected_of`, for a suite's report."""
    return lambda stage: made_with(stage, "{}", code_and_suite(suite)) if stage == "compare" else None


def data(run: Run) -> str:
    """Digests of the files that the task reads, `task.data.path`, `task.data.test_path` and those that other keys of
    the section name; "" if it reads none.

    A file that is missing or cannot be read is no error here: rule `prepare` reports it.
    """
    named = getattr(run.task, "data", None)
    files = [named.path, named.test_path] if isinstance(named, Data) else []
    others = [value for key, value in run.task if key != "name" and isinstance(value, str)]
    return _digests([*files, *filter(_names_a_file, others)])


def _names_a_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, for example
        return False


def _digests(names: Iterable[str | None]) -> str:
    return " ".join(_digest(Path(name)) for name in names if name)


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)[:16] if path.is_file() else "missing"
    except OSError:
        return "missing"


@cache
def _checkpoint(path: str | None, name: str) -> str:
    """The digest of a checkpoint's directory; if it is gone, the one that the run `name` was made with; "" for the Hub,
    whose files do not change in place."""
    try:
        if path and Path(path).is_dir():
            return CHECKPOINT + checkpoint_digest(Path(path))[:16]
    except OSError:
        return ""
    made = origin_of(Path("data/runs", name, "timings/base.json")).get("code", "")
    return next((word for word in made.split() if path and word.startswith(CHECKPOINT)), "")
