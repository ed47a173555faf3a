"""What an algorithm is: targets made from rollouts, a loss on them, or a way to decode."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import pyarrow as pa
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from pipeline.algorithms.targets import Rollouts, Targets
from pipeline.errors import PipelineError
from pipeline.settings.algorithms import Frozen, Settings
from pipeline.settings.sections import Evaluate, Rollout
from pipeline.tasks.base import Enumerated, Task, TaskSettings
from pipeline.text.tokenizer import encode, mask_id
from pipeline.training.replay_buffer import Batch, Replay

S = TypeVar("S", bound=Settings)
S_contra = TypeVar("S_contra", bound=Settings, contravariant=True)
S_co = TypeVar("S_co", bound=Settings, covariant=True)


@dataclass(frozen=True)
class Context(Generic[S_co]):
    """What an algorithm may use besides the policy and its rows.

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
    """Of rule `train`.

    Attributes:
        rollout: the section that the rollouts were drawn under.
        frozen: the policies that `Settings.frozen_policies` asks for.
    """

    rollout: Rollout
    frozen: Mapping[Frozen, nn.Module]


@dataclass(frozen=True)
class DecodeContext(Context[S_co]):
    """Of rule `evaluate`."""

    seed: int
    evaluate: Evaluate


class Loss(Protocol[S_contra]):
    """(policy, batch, context) -> a loss for each state of the batch, [n]."""

    def __call__(self, policy: nn.Module, batch: Batch, context: LossContext[S_contra]) -> Tensor: ...


Reward = Callable[[Int[Tensor, " m"], Int[Tensor, "m L"]], Float[Tensor, " m"]]
"""r of complete answers: (the row of each one's prompt, token rows)."""


@dataclass(frozen=True)
class Algorithm(Generic[S]):
    """A method, composed of functions; it is never subclassed.

    Attributes:
        paper: the citation that the report prints.
        settings: the schema of the section `algorithm`; it also says what the method needs.
        make_targets: rule `adjoint`: (rollouts, settings) -> weighted rows to learn from.
        replay: rule `train`: (rows, the section `rollout`, settings, mask_id) -> how the batches are drawn from them.
        loss: rule `train`: (policy, batch, context) -> a loss for each state of the batch.
        decode: rule `evaluate`: (policy, prompts, noise [n, 2L], reward, context) -> answers; it replaces ancestral
            sampling where the method changes how the model is sampled.
        law: (the policy's posteriors, as in `ctmc.exact`; context) -> those of `decode`, on an enumerated task.
    """

    paper: str
    settings: type[S]
    make_targets: Callable[[Rollouts, S], Targets] | None = None
    replay: Callable[[pa.Table, Rollout, S, int], Replay] | None = None
    loss: Loss[S] | None = None
    decode: Callable[[nn.Module, Tensor, Tensor, Reward, DecodeContext[S]], Tensor] | None = None
    law: Callable[[Tensor, Context[S]], Tensor] | None = None


def context_of(
    algorithm: Settings, task: Task[TaskSettings], tokenizer: Tokenizer, device: torch.device | str = "cpu"
) -> Context[Settings]:
    """The context of a stage that neither trains nor decodes."""
    return Context(algorithm, task, mask_id(tokenizer), value_ids(task, tokenizer).to(device))


def value_ids(task: Task[TaskSettings], tokenizer: Tokenizer) -> Int[Tensor, " M"]:
    """The token ids of an enumerated task's values; empty for other tasks."""
    values = task.enumerated.values if task.enumerated else ""
    return encode(tokenizer, [values])[0].long()
