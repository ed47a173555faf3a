"""Calling a task's scorer: the one place where a user's reward can fail, hang or return nonsense."""

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import SupportsFloat

from pipeline.errors import PipelineError
from pipeline.tasks.base import Item, Task


def score(
    task: Task, items: Sequence[Item], answers: Sequence[str], timeout: float, ids: Sequence[int] | None = None
) -> list[Mapping[str, float]]:
    """The metrics of each answer.

    Args:
        timeout: seconds allowed for one answer.
        ids: numbers by which the items are named in errors.

    Raises:
        PipelineError: for a scorer that raises, takes longer than `timeout`, gives no "reward" or one that is not
            a finite number; it names the item and the text.
    """
    results: list[Mapping[str, float]] = []
    for index, (item, answer) in enumerate(zip(items, answers, strict=True)):
        where = f"on item {ids[index] if ids else index} (prompt {item.prompt!r}, answer {answer[:80]!r})"
        try:
            with _time_limit(timeout):
                metrics = task.score(item, answer)
        except _Timeout:
            raise PipelineError(
                f"the reward took longer than {timeout:g} s {where}; see rollout.reward_timeout"
            ) from None
        except Exception as error:
            raise PipelineError(f"the reward raised {type(error).__name__}: {error} {where}") from error
        if not isinstance(metrics, Mapping):
            raise PipelineError(f"the score is {metrics!r}, not a mapping, {where}")
        if "reward" not in metrics:
            raise PipelineError(f"the score has no 'reward' but {sorted(metrics)} {where}")
        if not (isinstance(metrics["reward"], SupportsFloat) and math.isfinite(metrics["reward"])):
            raise PipelineError(f"the reward is {metrics['reward']!r}, not a finite number, {where}")
        results.append(metrics)
    return results


class _Timeout(BaseException):
    """Not an Exception, so that a scorer's own `except Exception` does not swallow it."""


def _expire(signum: int, frame: FrameType | None) -> None:
    raise _Timeout


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
