"""What each stage reads of a run: its `--settings`, and what makes Snakemake run it again. Torch-free.

A change in any other section reruns nothing; hardware is in none of them.
"""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import PipelineError
from pipeline.settings.run import AnyAlgorithm, AnyTask, Run, Seed
from pipeline.settings.sections import Base, Evaluate, ModelSection, Rollout, Train
from pipeline.settings.validation import Section, describe


class PrepareSettings(Section):
    seed: Seed
    task: AnyTask


class BaseSettings(PrepareSettings):
    model: ModelSection
    base: Base


class RolloutSettings(PrepareSettings):
    model: ModelSection
    rollout: Rollout


class AdjointSettings(Section):
    seed: Seed
    rollout: Rollout
    algorithm: AnyAlgorithm


class ReferenceSettings(Section):
    """Without the algorithm: the number of rollouts that it wants replayed is an argument of the stage."""

    seed: Seed
    model: ModelSection
    rollout: Rollout


class TrainSettings(RolloutSettings):
    algorithm: AnyAlgorithm
    train: Train


class LawSettings(PrepareSettings):
    """The settings of the stages that write out the law of an enumerated task."""

    model: ModelSection
    algorithm: AnyAlgorithm


class EvaluateSettings(LawSettings):
    evaluate: Evaluate


class NoSettings(Section):
    """The settings of a stage that reads files only: none."""


STAGES: dict[str, type[Section]] = {
    "prepare": PrepareSettings,
    "base": BaseSettings,
    "rollout": RolloutSettings,
    "reference": ReferenceSettings,
    "adjoint": AdjointSettings,
    "train": TrainSettings,
    "decode": EvaluateSettings,
    "evaluate": EvaluateSettings,
    "joint": LawSettings,
    "estimators": LawSettings,
    "report": Run,
}

S = TypeVar("S", bound=Section)


def settings_json(run: Run, stage: str) -> str:
    """The sections that a stage reads, as JSON with sorted keys: an argument of the stage and its rerun trigger.

    One string: Snakemake compares the *set* of a rule's parameters, so separate ones could trade values unseen.
    """
    schema = STAGES[stage]
    return plain_json(schema(**{name: getattr(run, name) for name in schema.model_fields}))


def parse_settings(text: str, schema: type[S]) -> S:
    """The typed settings of a stage from its command line. PipelineError, in one line, if they do not fit."""
    try:
        return schema.model_validate(json.loads(text))
    except ValidationError as error:
        raise PipelineError(f"--settings: {describe(error, schema)}") from error
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"--settings is not JSON: {error}") from error


def plain_json(settings: BaseModel) -> str:
    """The settings as JSON text, keys sorted."""
    return json.dumps(settings.model_dump(mode="json"), sort_keys=True)
