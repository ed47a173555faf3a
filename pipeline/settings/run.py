"""A run: every section of params.yaml with its defaults, checked against each other. Torch-free."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, ValidationInfo, model_validator

from pipeline.errors import PipelineError
from pipeline.plugins import load_algorithm, load_task, resolve_task
from pipeline.settings.algorithms import SETTINGS, Dam
from pipeline.settings.features import LACKING, SAVED_ONLY, SMALL, asked_of, lacks
from pipeline.settings.method import Settings
from pipeline.settings.sections import Base, Evaluate, ModelSection, Rollout, Train, judged_by
from pipeline.settings.validation import PluginSection, Section, describe

if TYPE_CHECKING:
    from pipeline.tasks.base import Task


def _plugin_section(section: object, schema_of: Callable[[str], type[Section]]) -> object:
    """The section of a plug-in under the plug-in's own schema. ValueError, in one line, if it does not fit."""
    if not isinstance(section, dict):
        return section
    if not isinstance(name := section.get("name"), str):
        raise ValueError("needs a name")
    try:
        schema = schema_of(name)
        return schema.model_validate(section)
    except PipelineError as error:
        raise ValueError(str(error)) from error
    except ValidationError as error:
        raise ValueError(describe(error, schema)) from error


def task_schema(name: str) -> type[Section]:
    """The keys of the section `task` for a task of this name. PipelineError if there is none."""
    return load_task(name).settings


def algorithm_schema(name: str) -> type[Section]:
    """The keys of the section `algorithm` for an algorithm of this name. PipelineError if there is none."""
    return SETTINGS.get(name) or load_algorithm(name).settings


def _algorithm(section: object) -> object:
    if isinstance(section, dict):
        section = {"name": "dam", **section}
    return _plugin_section(section, algorithm_schema)


AnyTask = Annotated[SerializeAsAny[PluginSection], BeforeValidator(lambda task: _plugin_section(task, task_schema))]
AnyAlgorithm = Annotated[SerializeAsAny[Settings], BeforeValidator(_algorithm)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Run(Section):
    """One row of a result table."""

    renamed: ClassVar[Mapping[str, str]] = {"like": "extends"}
    read_before: ClassVar[tuple[str, ...]] = ("extends",)

    seed: Seed = 0
    rounds: int = Field(default=10, ge=0, le=999)
    task: AnyTask = Field(default={"name": "sudoku"}, validate_default=True)
    model: ModelSection = ModelSection()
    base: Base = Base()
    rollout: Rollout = Rollout()
    algorithm: AnyAlgorithm = Dam(name="dam")
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _suits(self, info: ValidationInfo) -> "Run":
        """Sections that contradict each other: checked where params.yaml is read."""
        if info.context and (first := next(_contradictions(self, resolve_task(self.task)), "")):
            raise ValueError(first)
        return self


def _contradictions(run: Run, task: "Task[PluginSection]") -> Iterator[str]:
    """The reasons why the sections of a run contradict each other, if they do."""
    algorithm = run.algorithm
    if run.base.path is None:
        yield from _unsaved(run, task)
    yield from _wrong_lengths(run, task)
    samplers = run.evaluate.samplers
    if judged_by(samplers) not in samplers:
        yield "evaluate.samplers must hold greedy or ancestral, which runs are judged by"
    if not algorithm.trains and "ancestral" not in samplers:
        yield f"evaluate.samplers must hold ancestral, which algorithm '{algorithm.name}' is judged by"
    for name, section in (("rollout", run.rollout), ("evaluate", run.evaluate)):
        if section.prefill and not task.chat:
            yield f"{name}.prefill: task '{run.task.name}' has no chat answers; see task.template"
    if run.evaluate.cache and not algorithm.trains:
        yield f"evaluate.cache: algorithm '{algorithm.name}' decodes in its own way, which has no cache"
    if run.base.exact and (run.base.path or task.enumerated is None):
        yield f"base.exact needs an enumerated task, not '{run.task.name}', and no base.path"
    yield from _fine_tuning(run.base)
    yield from _of_algorithm(run, task)
    for key in features_asked(run):
        if key.partition(".")[2] in LACKING.get(run.model.name, ()):
            yield lacks(key, f"model '{run.model.name}'")


def features_asked(run: Run) -> list[str]:
    """The keys of a run that ask for one of `FEATURES`, such as `train.adapter`."""
    sections: dict[str, Section] = {"evaluate": run.evaluate}
    sections |= {"base": run.base} if run.base.trains else {}
    sections |= {"rollout": run.rollout, "train": run.train} if run.rounds else {}
    return [key for name, section in sections.items() for key in asked_of(section, name)]


def _of_algorithm(run: Run, task: "Task[PluginSection]") -> Iterator[str]:
    """What the algorithm cannot work with."""
    algorithm, size = run.algorithm, run.train.batch_size
    if algorithm.trains and run.rounds == 0:
        yield f"rounds is 0, but algorithm '{algorithm.name}' trains: set rounds to 1 or more"
    if not algorithm.trains and run.rounds:
        yield f"algorithm '{algorithm.name}' only decodes: set rounds to 0, not {run.rounds}"
    if algorithm.needs and task.enumerated is None:
        yield f"algorithm '{algorithm.name}' needs {algorithm.needs}: task '{run.task.name}' is not enumerated"
    if conflict := algorithm.conflict(run.rollout, exact_base=run.base.exact):
        yield f"algorithm.{conflict}"
    if size % (together := algorithm.rows_together(run.rollout)):
        yield f"train.batch_size must be a multiple of {together} with algorithm '{algorithm.name}', not {size}"


def _unsaved(run: Run, task: "Task[PluginSection]") -> Iterator[str]:
    """Why a run needs a saved base model."""
    if task.chat:
        yield f"task '{run.task.name}' asks in chat messages: base.path must name a checkpoint with a chat template"
    if run.model.name in SAVED_ONLY:
        yield f"model '{run.model.name}' is not made here: base.path must name a saved one"


def _fine_tuning(base: Base) -> Iterator[str]:
    """Keys of training a saved base that lack what they need."""
    if base.exact and base.data:
        yield "base.data: an exact base is not trained"
    if base.adapter and not (base.path and base.data):
        yield "base.adapter trains a saved base: it needs base.path and base.data"


def _wrong_lengths(run: Run, task: "Task[PluginSection]") -> Iterator[str]:
    """What is wrong with the numbers of answer tokens that the base learns, rollouts draw and evaluation decodes."""
    base, evaluate, own = run.base, run.evaluate.lengths, task.answer_length
    rollout = (run.rollout.length,) if run.rollout.length else ()
    asked = {"base.lengths": base.lengths, "rollout.length": rollout, "evaluate.lengths": evaluate}
    for key in ("rollout.length", "evaluate.lengths") if task.hole else ():
        if asked[key]:
            yield f"{key}: answers of task '{run.task.name}' start partly revealed and have the length of their start"
    for key, lengths in asked.items():
        if lengths and not task.chat and (wrong := _not_learnt(lengths, run, task)):
            yield f"{key}: {wrong}"
    if base.lengths and not base.trains:
        yield "base.lengths: a saved base (base.path) is not trained without base.data, so it learns no lengths"
    if evaluate and own not in evaluate:
        yield f"evaluate.lengths must hold task.answer_length, {own}: it gives the headline"


def _not_learnt(lengths: tuple[int, ...], run: Run, task: "Task[PluginSection]") -> str:
    """Why an embedded model cannot write answers of these numbers of tokens."""
    own, answers = task.answer_length, f"answers of task '{run.task.name}' have {task.answer_length} tokens"
    if not task.end:
        return f"{answers}, no other number"
    if min(lengths) < own:
        return f"{answers} at least, not {min(lengths)}"
    if max(lengths) > own and run.model.name in SMALL:
        return f"model '{run.model.name}' is made for answers of one length; take llada"
    if max(lengths) > own and not run.base.path and max(run.base.lengths or (own,)) == own:
        return f"{answers} unless base.lengths holds more, from which the base learns how answers end"
    return ""
