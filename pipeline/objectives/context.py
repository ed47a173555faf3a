"""What a loss or a decoder gets besides the policy and its rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.settings.method import Frozen, Settings
from pipeline.settings.sections import Evaluate, Rollout
from pipeline.tasks.base import Enumerated, Task, TaskSettings
from pipeline.text.tokenizer import encode, mask_id

S_co = TypeVar("S_co", bound=Settings, covariant=True)


@dataclass(frozen=True)
class Context(Generic[S_co]):
    """The part that losses and decoders have in common.

    Attributes:
        algorithm: its section of params.yaml.
        task: the task's plug-in.
        mask_id: the token id of [MASK].
        values: the token ids of an enumerated task's values, on the device of the stage; empty for other tasks.
    """

    algorithm: S_co
    task: Task[TaskSettings]
    mask_id: int
    values: Int[Tensor, " M"]

    @property
    def device(self) -> torch.device:
        """Where the stage computes."""
        return self.values.device

    @property
    def problem(self) -> Enumerated:
        """The enumerated task, for methods that need one."""
        if self.task.enumerated is None:
            raise PipelineError(f"algorithm '{self.algorithm.name}' needs an enumerated task")
        return self.task.enumerated


@dataclass(frozen=True)
class LossContext(Context[S_co]):
    """The context of a loss, in rule `train`.

    Attributes:
        rollout: the section that the rollouts were drawn under.
        frozen: the policies that `Settings.frozen_policies` asks for.
        end_ids: the tokens that end an answer; none where all answers have one length.
    """

    rollout: Rollout
    frozen: Mapping[Frozen, nn.Module]
    end_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class DecodeContext(Context[S_co]):
    """The context of a decoder, in rules `decode` and `evaluate`."""

    seed: int
    evaluate: Evaluate


def context_of(algorithm: Settings, task: Task[TaskSettings], tokenizer: Tokenizer) -> Context[Settings]:
    """The context of a stage that neither trains nor decodes."""
    return Context(algorithm, task, mask_id(tokenizer), value_ids(task, tokenizer))


def value_ids(task: Task[TaskSettings], tokenizer: Tokenizer) -> Int[Tensor, " M"]:
    """The token ids of an enumerated task's values; empty for other tasks."""
    values = task.enumerated.values if task.enumerated else ""
    return encode(tokenizer, [values])[0].long()
