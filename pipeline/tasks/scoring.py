"""Calls a task's scorer, which may be a user's code that fails, hangs or returns nonsense."""

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import PipelineError
from pipeline.tasks.base import Item, Task, TaskSettings


def score(
    task: Task[TaskSettings], items: Sequence[Item], answers: Sequence[str], timeout: float, ids: Sequence[int] = ()
) -> list[Mapping[str, float]]:
    """The metrics of each answer, as floats.

    Raises:
        PipelineError: if the scorer raises, takes longer than `timeout` seconds, returns no "reward", a metric that is
            not a finite number, or other metrics than for the first answer. The message names the answer and the item,
            by its number in `ids`.
    """
    results: list[Mapping[str, float]] = []
    with _alarm():
        for number, item, answer in zip(ids or range(len(items)), items, answers, strict=True):
            where = f"on item {number} (prompt {item.prompt!r}, answer {answer[:80]!r})"
            try:
                signal.setitimer(signal.ITIMER_REAL, timeout)
                metrics = task.score(item, answer)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except _Timeout:
                raise PipelineError(f"the reward took longer than {timeout:g} s (reward_timeout) {where}") from None
            except (Exception, SystemExit) as error:
                raise PipelineError(f"the reward raised {type(error).__name__}: {error} {where}") from error
            if wrong := _wrong(metrics, results[0] if results else None):
                raise PipelineError(f"{wrong} {where}")
            results.append({name: float(value) for name, value in metrics.items()})
    return results


def _wrong(metrics: object, first: Mapping[str, float] | None) -> str:
    """What is wrong with the metrics of an answer, "" if nothing is."""
    if not isinstance(metrics, Mapping):
        return f"the score is {metrics!r}, not a mapping,"
    if "reward" not in metrics:
        return f"the score has no 'reward' but {sorted(metrics)}"
    for name, value in metrics.items():
        if not _finite(value):
            what = "the reward" if name == "reward" else f"the metric {name!r}"
            return f"{what} is {value!r}, not a finite number,"
    if first is not None and metrics.keys() != first.keys():
        return f"the score has {sorted(metrics)}, not {sorted(first)} as the first one,"
    return ""


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


class _Timeout(BaseException):
    """Not an `Exception`, so that a scorer's own `except Exception` does not catch it."""


@contextmanager
def _alarm() -> Iterator[None]:
    """Makes the timer's signal raise `_Timeout`, and restores the previous handler at the end."""

    def expire(signum: int, frame: FrameType | None) -> None:
        raise _Timeout

    before = signal.signal(signal.SIGALRM, expire)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
