"""Whether to train with gradient checkpointing, where the settings leave it to the card's memory."""

import torch
from torch import nn

from pipeline.models.flops import Shape
from pipeline.models.memory import Training
from pipeline.runtime.distributed import device, is_main_process, processes
from pipeline.settings.sections import Base, Train


def card_memory() -> float | None:
    """Bytes of this process's GPU; None on a CPU."""
    return float(torch.cuda.get_device_properties(device()).total_memory) if torch.cuda.is_available() else None


def decide_checkpointing(
    section: Base | Train,
    model: nn.Module,
    *,
    prompt: int,
    answer: int,
    passes: int = 1,
    copies: int = 0,
    whole: int = 0,
    sharded: bool,
    compiled: bool,
) -> bool:
    """Whether to use gradient checkpointing: as the section says; with null, if the card is too small without it.

    The decision is printed.

    Args:
        model: before it is distributed.
        prompt, answer: the most tokens of each in a row.
        passes: sequences for each state of a batch.
        copies: frozen policies with weights of their own; those of adapters have none.
        whole: positions of a row at which the loss holds the whole distribution.
    """
    card, shape = card_memory(), Shape.of_module(model)
    if section.gradient_checkpointing is not None or card is None or shape is None:
        return bool(section.gradient_checkpointing)
    training = Training(
        shape,
        rows=passes * section.batch_size / (section.gradient_accumulation_steps * processes()),
        prompt=prompt,
        answer=answer,
        itemsize=next(model.parameters()).itemsize,
        adapters=shape.adapters(section.adapter),
        copies=0 if section.adapter else copies,
        parts=processes() if sharded else 1,
        compiled=compiled,
        whole=whole,
    )
    decision = training.recomputes(None, card)
    if is_main_process():
        needed, word = training.bytes(recompute=False) / 1e9, "on" if decision else "off"
        print(f"gradient checkpointing is {word}: without it {needed:.0f} GB of the card's {card / 1e9:.0f} are needed")
    return decision
