"""The schema of params.yaml. Torch-free: the Snakefile validates every run before anything starts."""

import json
from types import SimpleNamespace
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator, model_validator

from pipeline.errors import PipelineError
from pipeline.plugins import load_task
from pipeline.settings.algorithms import Dam, Settings
from pipeline.settings.sections import Base, Evaluate, Hardware, Keep, Model, Rollout, Section, Suite, Train
from pipeline.settings.validation import checked, describe, schema_of, validated
from pipeline.tasks.base import Task

FIXED = ("mlp", "tabular")
"""Models whose answers have one length."""


class Run(Section):
    """One row of a result table."""

    seed: int = Field(default=0, ge=0)
    rounds: int = Field(default=10, ge=0, le=999)
    task: dict[str, Any] = Field(default={"name": "sudoku"})
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
        if wrong := _wrong_decoding(self):
            raise ValueError(wrong)
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


class Params(Section):
    """params.yaml: `defaults`, what each run changes, suites of runs, what stays on disk, and the hardware."""

    default_run: str
    defaults: Run = Run()
    runs: dict[str, Run]
    suites: dict[str, Suite] = Field(default={})
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


def _wrong_decoding(run: Run) -> str:
    """What does not fit the task's texts or the algorithm, "" if all does."""
    task = load_task(run.task)
    if task.chat and run.base.path is None:
        return f"task '{run.task['name']}' asks in chat messages: base.path must name a checkpoint with a chat template"
    if wrong := _wrong_lengths(run, task):
        return wrong
    for sampler in ("greedy",) if run.algorithm.trains else ("greedy", "ancestral"):
        if sampler not in run.evaluate.samplers:
            return f"evaluate.samplers must hold {sampler}, which algorithm '{run.algorithm.name}' is judged by"
    for section in ("rollout", "evaluate"):
        if getattr(run, section).prefill and not task.chat:
            return f"{section}.prefill: task '{run.task['name']}' has no chat answers; see task.template"
    return ""


def _wrong_lengths(run: Run, task: Task) -> str:
    """What is wrong with the numbers of answer tokens that the base learns, rollouts draw and evaluation decodes."""
    base, evaluate, own = run.base, run.evaluate.lengths, task.answer_length
    rollout = (run.rollout.length,) if run.rollout.length else ()
    asked = {"base.lengths": base.lengths, "rollout.length": rollout, "evaluate.lengths": evaluate}
    for key, lengths in asked.items():
        if lengths and not task.chat and (wrong := _unheard_of(lengths, run, task)):
            return f"{key}: {wrong}"
    if base.lengths and base.path:
        return "base.lengths: a saved base (base.path) is not trained, so it learns no lengths"
    if evaluate and own not in evaluate:
        return f"evaluate.lengths must hold task.answer_length, {own}: it gives the headline"
    return ""


def _unheard_of(lengths: tuple[int, ...], run: Run, task: Task) -> str:
    """Why an embedded model cannot write answers of these numbers of tokens."""
    own, answers = task.answer_length, f"answers of task '{run.task['name']}' have {task.answer_length} tokens"
    if not task.end:
        return f"{answers}, no other number"
    if min(lengths) < own:
        return f"{answers} at least, not {min(lengths)}"
    if max(lengths) > own and run.model.name in FIXED:
        return f"model '{run.model.name}' is made for answers of one length; take llada"
    if max(lengths) > own and not run.base.path and max(run.base.lengths or (own,)) == own:
        return f"{answers} unless base.lengths holds more, from which the base learns how answers end"
    return ""
