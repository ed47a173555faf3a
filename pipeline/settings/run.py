"""A run: every section of params.yaml with its defaults, checked against each other. Torch-free."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from pipeline.errors import PipelineError
from pipeline.plugins import load_algorithm, load_task, resolve_task
from pipeline.settings.algorithms import SETTINGS, Dam, Settings
from pipeline.settings.sections import Base, Evaluate, ModelSection, Rollout, Train
from pipeline.settings.validation import PluginSection, Section, describe, known_plugin

if TYPE_CHECKING:
    from pipeline.tasks.base import Task

FIXED = ("mlp", "tabular")
"""Models whose answers have one length."""


def _plugin_section(schema: type[Section], section: Mapping[str, object]) -> Section:
    """The section of a plug-in under its own schema. ValueError, in one line, if it does not fit."""
    try:
        return schema.model_validate(section)
    except ValidationError as error:
        raise ValueError(describe(error, schema)) from error


def _task(section: object) -> object:
    """The section `task` under the schema of the task that it names."""
    if not isinstance(section, dict):
        return section
    try:
        schema = load_task(_name(section)).settings
    except PipelineError as error:
        raise ValueError(str(error)) from error
    if not issubclass(schema, PluginSection):
        raise ValueError(f"the settings of '{section['name']}' must be a subclass of pipeline.tasks.base.TaskSettings")
    return _plugin_section(schema, section)


def _algorithm(section: object) -> object:
    """The section `algorithm` under the schema of the algorithm that it names."""
    if not isinstance(section, dict):
        return section
    section = {"name": "dam", **section}
    name = _name(section)
    try:
        return _plugin_section(SETTINGS[name] if name in SETTINGS else load_algorithm(name).settings, section)
    except PipelineError as error:
        raise ValueError(str(error)) from error


def _name(section: Mapping[str, object]) -> str:
    if not isinstance(name := section.get("name"), str):
        raise ValueError("needs a name")
    return name


def _model(model: ModelSection) -> ModelSection:
    known_plugin("model", model.name)
    if model.hidden_size % (2 * model.num_attention_heads):
        raise ValueError("hidden_size must be a multiple of 2 · num_attention_heads (rotary embeddings turn pairs)")
    return model


AnyTask = Annotated[SerializeAsAny[PluginSection], BeforeValidator(_task)]
AnyAlgorithm = Annotated[SerializeAsAny[Settings], BeforeValidator(_algorithm)]
AnyModel = Annotated[ModelSection, AfterValidator(_model)]
Seed = Annotated[int, Field(ge=0)]


class Run(Section):
    """One row of a result table."""

    renamed: ClassVar[Mapping[str, str]] = {"like": "extends"}

    seed: Seed = 0
    rounds: int = Field(default=10, ge=0, le=999)
    task: AnyTask = Field(default={"name": "sudoku"}, validate_default=True)
    model: AnyModel = ModelSection()
    base: Base = Base()
    rollout: Rollout = Rollout()
    algorithm: AnyAlgorithm = Dam(name="dam")
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _suits(self, info: ValidationInfo) -> "Run":
        """Sections that contradict each other: checked where params.yaml is read."""
        if info.context and (wrong := _contradiction(self)):
            raise ValueError(wrong)
        return self


def _contradiction(run: Run) -> str:
    """What makes the sections of a run contradict each other, "" if nothing does."""
    task, algorithm = resolve_task(run.task), run.algorithm
    if wrong := _wrong_decoding(run, task):
        return wrong
    if run.base.exact and (run.base.path or task.enumerated is None):
        return f"base.exact needs an enumerated task, not '{run.task.name}', and no base.path"
    if algorithm.trains and run.rounds == 0:
        return f"rounds is 0, but algorithm '{algorithm.name}' trains: set rounds to 1 or more"
    if not algorithm.trains and run.rounds:
        return f"algorithm '{algorithm.name}' only decodes: set rounds to 0, not {run.rounds}"
    if algorithm.needs and task.enumerated is None:
        needs = " and ".join(sorted(algorithm.needs))
        return f"algorithm '{algorithm.name}' needs {needs}: task '{run.task.name}' is not enumerated"
    conflict = algorithm.conflict(run.rollout, exact_base=run.base.exact)
    return f"algorithm.{conflict}" if conflict else ""


def _wrong_decoding(run: Run, task: "Task[PluginSection]") -> str:
    """What does not fit the task's texts or the algorithm, "" if all does."""
    if task.chat and run.base.path is None:
        return f"task '{run.task.name}' asks in chat messages: base.path must name a checkpoint with a chat template"
    if wrong := _wrong_lengths(run, task):
        return wrong
    for sampler in ("greedy",) if run.algorithm.trains else ("greedy", "ancestral"):
        if sampler not in run.evaluate.samplers:
            return f"evaluate.samplers must hold {sampler}, which algorithm '{run.algorithm.name}' is judged by"
    for name, section in (("rollout", run.rollout), ("evaluate", run.evaluate)):
        if section.prefill and not task.chat:
            return f"{name}.prefill: task '{run.task.name}' has no chat answers; see task.template"
    return ""


def _wrong_lengths(run: Run, task: "Task[PluginSection]") -> str:
    """What is wrong with the numbers of answer tokens that the base learns, rollouts draw and evaluation decodes."""
    base, evaluate, own = run.base, run.evaluate.lengths, task.answer_length
    rollout = (run.rollout.length,) if run.rollout.length else ()
    asked = {"base.lengths": base.lengths, "rollout.length": rollout, "evaluate.lengths": evaluate}
    for key, lengths in asked.items():
        if lengths and not task.chat and (wrong := _not_learnt(lengths, run, task)):
            return f"{key}: {wrong}"
    if base.lengths and base.path:
        return "base.lengths: a saved base (base.path) is not trained, so it learns no lengths"
    if evaluate and own not in evaluate:
        return f"evaluate.lengths must hold task.answer_length, {own}: it gives the headline"
    return ""


def _not_learnt(lengths: tuple[int, ...], run: Run, task: "Task[PluginSection]") -> str:
    """Why an embedded model cannot write answers of these numbers of tokens."""
    own, answers = task.answer_length, f"answers of task '{run.task.name}' have {task.answer_length} tokens"
    if not task.end:
        return f"{answers}, no other number"
    if min(lengths) < own:
        return f"{answers} at least, not {min(lengths)}"
    if max(lengths) > own and run.model.name in FIXED:
        return f"model '{run.model.name}' is made for answers of one length; take llada"
    if max(lengths) > own and not run.base.path and max(run.base.lengths or (own,)) == own:
        return f"{answers} unless base.lengths holds more, from which the base learns how answers end"
    return ""
