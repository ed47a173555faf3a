"""What an algorithm is: a way to label rollouts, and a loss on the labelled rows."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from torch import Tensor, nn

from pipeline.replay import Batch


@dataclass(frozen=True)
class Rollouts:
    """What the adjoint stage knows when it labels one round.

    Attributes:
        table: this round's rollouts.
        previous: the targets of the round before, None in round 1.
        log_prob: (policy name, table, temperature) -> log p(x_i | x_s, i) along the stored paths, [rows, L], by
            teacher forcing; policy name is "base" or "previous".
    """

    table: pa.Table
    previous: pa.Table | None
    log_prob: Callable[[str, pa.Table, float], Tensor]


@dataclass(frozen=True)
class Labels:
    """The columns of `records.TARGETS`, and the round's diagnostics."""

    columns: dict[str, Any]
    diagnostics: dict[str, float]


@dataclass(frozen=True)
class Algorithm:
    """Final: composed of functions, never subclassed.

    Attributes:
        paper: the citation that the report prints.
        label: rule `adjoint`: (rollouts, sections of the configuration) -> rows to learn from.
        loss: rule `train`: (policy, batch, mask_id) -> a loss for each state of the batch.
    """

    paper: str
    label: Callable[[Rollouts, SimpleNamespace], Labels]
    loss: Callable[[nn.Module, Batch, int], Tensor]
