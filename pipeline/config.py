"""The schema of params.yaml. Torch-free: the Snakefile validates every run before anything starts."""

import json
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.algorithms.settings import Dam, Settings
from pipeline.errors import PipelineError
from pipeline.registry import load_task
from pipeline.schemas import checked, describe, schema_of, validated

Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of params.yaml: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(Section):
    """The embedded model; ignored when `base.path` names a saved one. `mlp` has width and depth, `tabular` nothing.

    `dtype` is the type of the weights, of an imported base too; what trains is kept in float32 beside them.
    """

    name: str = "llada"
    dtype: Literal["float32", "bfloat16"] = "float32"
    hidden_size: PositiveInt = 64
    intermediate_size: PositiveInt = 168
    num_hidden_layers: PositiveInt = 3
    num_attention_heads: PositiveInt = 8
    rope_theta: PositiveFloat = 30.0
    initializer_range: PositiveFloat = 0.06


class Optimizer(Section):
    """AdamW with linear warm-up. All batch sizes are global: the number of processes does not change them.

    `gradient_checkpointing` keeps each layer's input only and computes the layer again in the backward pass.
    """

    batch_size: PositiveInt = 256
    accumulation: PositiveInt = 1
    lr: PositiveFloat = 1e-3
    warmup: int = Field(default=20, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: PositiveFloat = 1.0
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _divides(self) -> "Optimizer":
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulation {self.accumulation}")
        return self


class Base(Optimizer):
    """Masked-diffusion pre-training; the learning rate falls linearly to 0. Or `path`: a saved model to start from.

    Or `exact: true`: the posteriors of the task's own joint, for an enumerated task and a model that can hold them.
    """

    path: str | None = None
    exact: bool = False
    updates: PositiveInt = 1500


class Adapter(Section):
    """LoRA on the linear layers named by `targets`, W x + (alpha/rank) B A x. The defaults are those of d1."""

    rank: PositiveInt = 128
    alpha: PositiveInt = 64
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Train(Optimizer):
    """One round of matching. Round k uses lr · lr_decay^(k-1), so that later rounds can be added.

    With `adapter: {}` LoRA adapters train and the base stays as it is; without, all weights train.
    """

    updates: PositiveInt = 60
    lr_decay: float = Field(default=0.9, gt=0, le=1)
    adapter: Adapter | None = None


class Rollout(Section):
    """Each round takes `prompts` states x and K = `completions` trajectories from each.

    `branch: root` starts from the empty answer, `branch: reciprocal` from a re-masked rollout. `shards` is the
    number of files, and of jobs that may run at once; it changes no row.
    """

    branch: Literal["root", "reciprocal"] = "root"
    shards: int = Field(default=2, ge=1, le=100)
    prompts: PositiveInt = 256
    completions: int = Field(default=16, ge=2)
    order: Literal["random", "confidence"] = "random"
    tokens_per_step: PositiveInt = 2
    temperature: PositiveFloat = 1.0
    batch_size: PositiveInt = 256
    reward_timeout: PositiveFloat = 10.0


class Evaluate(Section):
    """Decoding of the held-out prompts: the base, every `every`-th round and the last."""

    every: PositiveInt = 2
    tokens_per_step: PositiveInt = 1
    batch_size: PositiveInt = 256
    reward_timeout: PositiveFloat = 10.0


class Run(Section):
    """One row of a result table."""

    seed: int = Field(default=0, ge=0)
    rounds: int = Field(default=10, ge=0, le=999)
    task: dict[str, Any] = {"name": "sudoku"}
    model: Model = Model()
    base: Base = Base()
    rollout: Rollout = Rollout()
    algorithm: SerializeAsAny[Settings] = Dam(name="dam")
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @field_validator("task")
    @classmethod
    def _task(cls, task: dict[str, Any]) -> dict[str, Any]:
        settings = dict(task)
        name = settings.pop("name", None)
        schema = schema_of("task", name)
        return {"name": name, **validated(settings, schema).model_dump(mode="json")}

    @field_validator("algorithm", mode="before")
    @classmethod
    def _algorithm(cls, algorithm: Any) -> Any:
        if not isinstance(algorithm, dict):
            return algorithm
        settings = {"name": "dam", **algorithm}
        return validated(settings, schema_of("algorithm", settings["name"]))

    @field_validator("model")
    @classmethod
    def _model(cls, model: Model) -> Model:
        checked("model", model.name)
        if model.hidden_size % (2 * model.num_attention_heads):
            raise ValueError("hidden_size must be a multiple of 2 · num_attention_heads (rotary embeddings turn pairs)")
        return model

    @model_validator(mode="after")
    def _suits(self, info: ValidationInfo) -> "Run":
        """Sections that contradict each other; only where the run is whole, not in a stage that sees some of it."""
        if not info.context:
            return self
        task, algorithm = load_task(self.task), self.algorithm
        enumerated = task.enumerated
        if not task.alphabet:
            raise ValueError(
                f"task '{self.task['name']}' has chat prompts here, which can be scored (pipeline.stages.score) but"
                " not sampled yet: use a task with template: compact"
            )
        if self.base.exact and (self.base.path or enumerated is None):
            raise ValueError(f"base.exact needs an enumerated task, not '{self.task['name']}', and no base.path")
        if algorithm.trains and self.rounds == 0:
            raise ValueError(f"rounds is 0, but algorithm '{algorithm.name}' trains: set rounds to 1 or more")
        if not algorithm.trains and self.rounds:
            raise ValueError(f"algorithm '{algorithm.name}' only decodes: set rounds to 0, not {self.rounds}")
        if algorithm.needs and enumerated is None:
            needs = " and ".join(sorted(algorithm.needs))
            raise ValueError(
                f"algorithm '{algorithm.name}' needs {needs}: task '{self.task['name']}' is not enumerated"
            )
        if conflict := algorithm.conflict(self.rollout):
            raise ValueError(f"algorithm.{conflict}")
        return self


class Hardware(Section):
    """How the work is spread; changing it reruns nothing.

    `processes` train a model, unless `models` gives its name a number of its own: updates of less than a few
    milliseconds are slower when they are shared.
    `sharding: full` gives each process a part of the weights, gradients and moments (FSDP2) instead of a copy (DDP).
    """

    processes: PositiveInt = 1
    models: dict[str, PositiveInt] = {}
    threads: PositiveInt = 2
    preload: bool = True
    sharding: Literal["none", "full"] = "none"

    @field_validator("models")
    @classmethod
    def _models(cls, models: dict[str, int]) -> dict[str, int]:
        return {checked("model", name): count for name, count in models.items()}

    def processes_of(self, model: str) -> int:
        return self.models.get(model, self.processes)


class Keep(Section):
    """How many rounds' files stay on disk, counted back from the last: `all` or a number. Changing it reruns nothing.

    `buffers` are rollouts and targets, `optimizer` the states that the next round starts from. Policies stay.
    """

    buffers: PositiveInt | Literal["all"] = "all"
    optimizer: PositiveInt | Literal["all"] = 1

    @field_validator("*", mode="before")
    @classmethod
    def _rounds(cls, count: Any) -> Any:
        if count != "all" and (not isinstance(count, int) or count < 1):
            raise ValueError(
                f"must be all, or a number of rounds from 1: the next round reads the last (got {count!r})"
            )
        return count


class Suite(Section):
    """Runs that one target makes, each with every seed: `NAME-seed1` is the run NAME with the seed 1.

    A mapping from names to {key: values} sweeps: `NAME-lr0.1-beta1` is the run NAME with the settings train.lr 0.1 and
    algorithm.beta 1, one run for each combination.
    """

    runs: list[str] | dict[str, dict[str, list[bool | int | float | str]]]
    seeds: list[int] | None = None

    @property
    def varied(self) -> dict[str, dict[str, list[Any]]]:
        """What is swept in each run, by dotted key; nothing for a plain list of runs."""
        return self.runs if isinstance(self.runs, dict) else {name: {} for name in self.runs}


class Params(Section):
    """params.yaml: `defaults`, what each run changes, suites of runs, what stays on disk, and the hardware."""

    default_run: str
    defaults: Run = Run()
    runs: dict[str, Run]
    suites: dict[str, Suite] = {}
    keep: Keep = Keep()
    hardware: Hardware = Hardware()


def parse_sections(text: str) -> SimpleNamespace:
    """The validated sections of a run that a stage was given, as attributes; it has no others."""
    try:
        sections = json.loads(text)
        run = Run.model_validate(sections)
    except json.JSONDecodeError as error:
        raise PipelineError(f"--settings is not JSON: {error}") from error
    except ValidationError as error:
        raise PipelineError(f"--settings: {describe(error, Run)}") from error
    return SimpleNamespace(**{key: getattr(run, key) for key in sections})
