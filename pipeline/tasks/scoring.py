"""Calling a task's scorer: the one place where a user's reward can fail, hang or return nonsense."""

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks.base import Item, Task


def score(
    task: Task, items: Sequence[Item], answers: Sequence[str], timeout: float, ids: Sequence[int] | None = None
) -> list[Mapping[str, float]]:
    """The metrics of each answer, as floats.

    Args:
        timeout: seconds allowed for one answer.
        ids: numbers by which the items are named in errors.

    Raises:
        PipelineError: for a scorer that raises, takes longer than `timeout`, gives no "reward", a metric that is not
            a finite number, or other metrics than for the first answer; it names the item and the text.
    """

    results: list[Mapping[str, float]] = []
    with _alarm():
        for number, item, answer in zip(ids or range(len(items)), items, answers, strict=True):
            try:
                signal.setitimer(signal.ITIMER_REAL, timeout)
                metrics = task.score(item, answer)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except _Timeout:
                raise PipelineError(
                    f"the reward took longer than {timeout:g} s (reward_timeout) {_on(number, item, answer)}"
                ) from None
            except (Exception, SystemExit) as error:
                raise PipelineError(
                    f"the reward raised {type(error).__name__}: {error} {_on(number, item, answer)}"
                ) from error
            if not isinstance(metrics, Mapping):
                raise PipelineError(f"the score is {metrics!r}, not a mapping, {_on(number, item, answer)}")
            if "reward" not in metrics:
                raise PipelineError(f"the score has no 'reward' but {sorted(metrics)} {_on(number, item, answer)}")
            for name, value in metrics.items():
                if not _finite(value):
                    what = "the reward" if name == "reward" else f"the metric {name!r}"
                    raise PipelineError(f"{what} is {value!r}, not a finite number, {_on(number, item, answer)}")
            if results and metrics.keys() != results[0].keys():
                names = f"{sorted(metrics)}, not {sorted(results[0])} as the first one"
                raise PipelineError(f"the score has {names}, {_on(number, item, answer)}")
            results.append({name: float(value) for name, value in metrics.items()})
    return results


def _on(number: int, item: Item, answer: str) -> str:
    return f"on item {number} (prompt {item.prompt!r}, answer {answer[:80]!r})"


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


class _Timeout(BaseException):
    """Not an Exception, so that a scorer's own `except Exception` does not swallow it."""


def _expire(signum: int, frame: FrameType | None) -> None:
    raise _Timeout


@contextmanager
def _alarm() -> Iterator[None]:
    """The handler of the timer, set once for all answers, and the one before it put back."""
    before = signal.signal(signal.SIGALRM, _expire)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
