"""What a model plug-in is: a way to make a fresh model and to open and save one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Model:
    """The module that `create` and `load` return maps (input_ids [n, T], select [n, T]) to `.logits` [s, V].

    Attributes:
        create: (the section `model`, vocabulary size, id of [MASK]) -> a module with fresh weights.
        load: directory -> module; PipelineError unless it holds exactly this architecture.
        save: (module, directory).
    """

    create: Callable[[Any, int, int], nn.Module]
    load: Callable[[Path], nn.Module]
    save: Callable[[nn.Module, Path], None]
