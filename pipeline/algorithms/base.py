"""What an algorithm is: targets made from rollouts, a loss on them, or a way to decode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import pyarrow as pa
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.objectives.context import Context, DecodeContext, LossContext
from pipeline.objectives.targets import Rollouts, Targets
from pipeline.settings.method import Settings
from pipeline.settings.sections import Rollout
from pipeline.training.replay_buffer import Batch, Replay, States

S = TypeVar("S", bound=Settings)
S_contra = TypeVar("S_contra", bound=Settings, contravariant=True)


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
        decode: rule `evaluate`: (policy, prompts, the answers as they start, noise [n, 2L], reward, context) ->
            answers; it replaces ancestral sampling where the method changes how the model is sampled.
        law: (the policy's posteriors, as in `ctmc.exact`; context) -> those of `decode`, on an enumerated task.
    """

    paper: str
    settings: type[S]
    make_targets: Callable[[Rollouts, S], Targets] | None = None
    replay: Callable[[pa.Table, Rollout, S, int], Replay] | None = None
    loss: Loss[S] | None = None
    decode: Callable[[nn.Module, Tensor, Tensor, Tensor, Reward, DecodeContext[S]], Tensor] | None = None
    law: Callable[[Tensor, Context[S]], Tensor] | None = None


def batches_of(states: States) -> Callable[[pa.Table, Rollout, Settings, int], Replay]:
    """`Algorithm.replay` for batches of these states, of which the loss reads every masked position."""
    return lambda targets, rollout, settings, mask_id: Replay.of_targets(targets, rollout, mask_id, states)
