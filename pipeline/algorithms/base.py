"""What an algorithm is: a way to label rollouts, a loss on the labelled rows, or a way to decode."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from pipeline.algorithms.targets import Labels, Rollouts
from pipeline.errors import PipelineError
from pipeline.models.policy_directory import frozen_policy
from pipeline.plugins import load_task
from pipeline.settings.algorithms import Settings
from pipeline.tasks.base import Enumerated, Task
from pipeline.text.tokenizer import encode, mask_id
from pipeline.training.replay_buffer import Batch, Replay


@dataclass(frozen=True)
class Round:
    """What a loss or a decoder may look at besides the policy and its rows.

    Attributes:
        settings: the sections of the configuration that the stage was given.
        mask_id: the token id of [MASK].
        task: the task's plug-in.
        values: the token ids of an enumerated task's values.
        behavior: opens the policy that sampled the round's rollouts, frozen.
        base: opens the base model, frozen.
        device: where the stage computes.
    """

    settings: SimpleNamespace
    mask_id: int
    task: Task
    values: Int[Tensor, " M"]
    behavior: Callable[[], nn.Module]
    base: Callable[[], nn.Module]
    device: torch.device

    @property
    def problem(self) -> Enumerated:
        """The enumerated task, for methods that need one."""
        if self.task.enumerated is None:
            raise PipelineError(f"algorithm '{self.settings.algorithm.name}' needs an enumerated task")
        return self.task.enumerated


Reward = Callable[[Int[Tensor, " m"], Int[Tensor, "m L"]], Float[Tensor, " m"]]
"""r of complete answers: (the row of each one's prompt, token rows)."""


@dataclass(frozen=True)
class Algorithm:
    """Final: composed of functions, never subclassed.

    Attributes:
        paper: the citation that the report prints.
        settings: the schema of the section `algorithm`; it also says what the method needs.
        label: rule `adjoint`: (rollouts, sections of the configuration) -> rows to learn from.
        replay: rule `train`: (rows, sections, mask_id) -> how the batches are drawn from them.
        loss: rule `train`: (policy, batch, round) -> a loss for each state of the batch.
        decode: rule `evaluate`: (policy, prompts, noise [n, 2L], reward, round) -> answers; takes the place of
            ancestral sampling where the method changes how the model is sampled.
        law: (the policy's posteriors, as in `ctmc.exact`; round) -> those of `decode`, on an enumerated task.
    """

    paper: str
    settings: type[Settings]
    label: Callable[[Rollouts, SimpleNamespace], Labels] | None = None
    replay: Callable[[pa.Table, SimpleNamespace, int], Replay] | None = None
    loss: Callable[[nn.Module, Batch, Round], Tensor] | None = None
    decode: Callable[[nn.Module, Tensor, Tensor, Reward, Round], Tensor] | None = None
    law: Callable[[Tensor, Round], Tensor] | None = None


def round_of(
    settings: SimpleNamespace,
    tokenizer: Tokenizer,
    policies: dict[str, Path],
    device: torch.device,
    policy: nn.Module | None = None,
) -> Round:
    """The round that a stage works on; models are opened when first asked for, beside the `policy` that trains."""
    task = load_task(settings.task)
    alphabet = task.enumerated.values if task.enumerated else ""

    @cache
    def frozen(name: str) -> nn.Module:
        return frozen_policy(policies[name], settings, policy, device)

    return Round(
        settings=settings,
        mask_id=mask_id(tokenizer),
        task=task,
        values=encode(tokenizer, [alphabet])[0].long().to(device),
        behavior=lambda: frozen("behavior"),
        base=lambda: frozen("base"),
        device=device,
    )
