"""Calls a task's scorer, which may be a user's code that fails, hangs or returns nonsense."""

from collections.abc import Iterable, Mapping, Sequence

from pipeline.errors import PipelineError
from pipeline.plugins import resolve_task
from pipeline.tasks.base import Item, TaskSettings
from pipeline.tasks.reward_process import Outcome, RewardProcess, outcome

Metrics = Mapping[str, float]


class Scorer:
    """Scores answers of a task.

    The scorers of this package run in this process: they take milliseconds for any text. A user's, or one of another
    package (`Task.own_process`), runs in a process of its own, the same one for all answers, that is killed if an
    answer takes longer than `timeout` seconds. In this process it could not be stopped: it may block signals and catch
    every exception.
    """

    def __init__(self, section: TaskSettings, timeout: float):
        self.task, self.timeout = resolve_task(section), timeout
        ours = getattr(self.task.score_function, "__module__", "").startswith("pipeline.tasks.")
        self.names: set[str] = set()
        self.process = None if ours and not self.task.own_process else RewardProcess(section)

    def __call__(self, items: Sequence[Item], answers: Sequence[str], ids: Sequence[int] = ()) -> list[Metrics]:
        """The metrics of each answer, as floats.

        Raises:
            PipelineError: if the scorer raises, takes too long, returns no "reward", a metric that is not a finite
                number, or other metrics than for the first answer. The message names the answer and the item, by its
                number in `ids` and its place in the data set if that is known; a traceback is in the log.
        """
        pairs = list(zip(items, answers, strict=True))
        outcomes: Iterable[Outcome] = (outcome(self.task.score, item, answer) for item, answer in pairs)
        if self.process:
            outcomes = self.process.outcomes(pairs, self.timeout)
        results: list[Metrics] = []
        for number, (item, answer), found in zip(ids or range(len(items)), pairs, outcomes, strict=True):
            place = f"{item.source}; " if item.source else ""
            where = f"on item {number} ({place}prompt {item.prompt!r}, answer {answer[:80]!r})"
            if isinstance(found, str):
                raise PipelineError(f"{found} {where}")
            self.names = self.names or set(found)
            if found.keys() != self.names:
                raise PipelineError(
                    f"the score has {sorted(found)}, not {sorted(self.names)} as the first one, {where}"
                )
            results.append(found)
        return results

    def close(self) -> None:
        """End the reward's process, if there is one, with the processes that it has started."""
        if self.process:
            self.process.close()
