"""The sections of params.yaml beside the runs: the hardware, what stays on disk, and suites of runs."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from pipeline.settings.validation import Section, known_plugin, none_twice

Tracker = Literal["tensorboard", "trackio", "wandb"]
"""Names of packages, too."""
Scalar = bool | int | float | str


Processes = Annotated[int, Field(ge=1, le=1024)]
"""On all nodes: each is started, however few cores there are."""


class Hardware(Section):
    """How the work is spread; changing it reruns nothing.

    `processes` train a model, unless `runs` (patterns such as `table-*`) or `models` gives its run or its model a
    number of its own: updates of less than a few milliseconds are slower when they are shared, and two runs of a suite
    can go side by side.
    `devices` is how many of this machine's GPUs jobs may use; null is all that CUDA shows. A job that computes with a
    model waits until it has one to itself; training has one for each process, so no more processes than devices. With
    0, jobs share the GPUs that they see. On a cluster its scheduler hands out the GPUs.
    `sharding: full` gives each process a part of the weights, gradients and moments (FSDP2) instead of a copy (DDP).
    `compile`: transformer blocks are compiled by torch.compile; null means on GPUs, where it takes some seconds a job.
    `track` sends the curves of runs to a tracker while they run, see `report/track.py`; null is none.
    `accelerator` is the GPU that the estimate of a dry run reckons with.
    """

    processes: Processes = 1
    models: dict[str, Processes] = Field(default={})
    runs: dict[str, Processes] = Field(default={})
    threads: Processes = 2
    devices: int | None = Field(default=None, ge=0, le=128)
    preload: bool = True
    sharding: Literal["none", "full"] = "none"
    compile: bool | None = None
    track: Tracker | None = None
    accelerator: Literal["a100", "h100", "h200", "b200"] = "h100"

    @field_validator("models")
    @classmethod
    def _models(cls, models: dict[str, int]) -> dict[str, int]:
        return {known_plugin("model", name): count for name, count in models.items()}

    def named(self, run: str) -> int | None:
        """The number that the first pattern of `runs` with this name gives it."""
        return next((count for pattern, count in self.runs.items() if fnmatchcase(run, pattern)), None)

    def of(self, run: str, model: str) -> "Hardware":
        """The same hardware with the number of processes that train this run, at most `devices`."""
        processes = self.named(run) or self.models.get(model, self.processes)
        return self.model_copy(update={"processes": min(processes, self.devices or processes)})


class Keep(Section):
    """How many rounds' files stay on disk, counted back from the last: `all` or a number. Changing it reruns nothing.

    `buffers` are rollouts and targets, `optimizer` the states that the next round starts from. Policies stay.
    """

    buffers: PositiveInt | Literal["all"] = "all"
    optimizer: PositiveInt | Literal["all"] = 1

    @field_validator("*", mode="before")
    @classmethod
    def _rounds(cls, count: object) -> object:
        if count != "all" and (not isinstance(count, int) or count < 1):
            raise ValueError(f"must be all, or a number of rounds from 1, which the next round reads (got {count!r})")
        return count


class Suite(Section):
    """Runs that one target makes, each with every seed: `NAME-seed1` is the run NAME with the seed 1.

    A mapping from names to {key: values} sweeps: `NAME-lr0.1-beta1` is the run NAME with the settings train.lr 0.1 and
    algorithm.beta 1, one run for each combination. `published` are figures of others, by run and metric: those of the
    base and of the run.
    """

    runs: list[str] | dict[str, dict[str, list[Scalar]]]
    seeds: list[int] | None = None
    published: dict[str, dict[str, tuple[float, float]]] = Field(default={})

    _once = field_validator("runs", "seeds")(none_twice)

    @field_validator("runs")
    @classmethod
    def _values(cls, runs: object) -> object:
        for run, varied in runs.items() if isinstance(runs, dict) else ():
            for key, values in varied.items():
                if not values:
                    raise ValueError(f"{run}: '{key}' has no values to sweep")
                if twice := [value for number, value in enumerate(values) if value in values[:number]]:
                    raise ValueError(f"{run}: '{key}' has the value {twice[0]} twice")
        return runs

    @property
    def varied(self) -> dict[str, dict[str, list[Scalar]]]:
        """What is swept in each run, by dotted key; nothing for a plain list of runs."""
        return self.runs if isinstance(self.runs, dict) else {name: {} for name in self.runs}
