"""What is checked of a run before any of its jobs starts, dry runs included; each mistake ends Snakemake in one line.

Only runs that the wanted targets need are checked, against the hardware and, without reading weights, the files of
their base model; items that are at hand, too. Torch-free.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.models.family import family_of
from pipeline.models.flops import Shape
from pipeline.plugins import nearest, resolve_task
from pipeline.runtime.memory_limits import LESS_MEMORY
from pipeline.settings.inheritance import nearest_target
from pipeline.settings.params_file import Params
from pipeline.settings.project import Hardware
from pipeline.settings.run import Run
from pipeline.settings.sections import TASK, Adapter, Optimizer
from pipeline.workflow.base_files import Found, checkpoint_at_hand, read_base
from pipeline.workflow.early_checks import check_items, check_model
from pipeline.workflow.estimate import Estimate
from pipeline.workflow.made_with import imported_base

MARGIN = 1.2
"""How far an estimate of memory may be off."""


class Preflight:
    """Checks each run once, when Snakemake first asks for its files; says what it does not take over from another run.

    Attributes:
        origins: run -> the run whose base model it uses.
        active: False in the processes that Snakemake starts for single jobs.
    """

    def __init__(self, params: Params, origins: Mapping[str, str], active: bool):
        self.params, self.origins, self.active = params, origins, active
        self.checked: set[str] = set()
        self.with_items: set[str] = set()
        self.said: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name of the run. SystemExit if it cannot work."""
        if not self.active or name in self.checked:
            return name
        self.checked.add(name)
        run = self.params.runs[name]
        for note in map(str, self.params.left_behind.get(name, ())):
            if note not in self.said:
                self.said.add(note)
                print(f"note: {name}: {note}", file=sys.stderr)
        origin = self.origins[name]
        imported = imported_base(self.params.runs[origin], origin)
        try:
            for problem in problems(run, self.params.hardware.of(name, run.model.name), imported):
                sys.exit(f"error: {name}: {problem}")
            check_model(run)
            if origin not in self.with_items:
                self.with_items.add(origin)
                check_items(name, self.params.runs, self.origins, checkpoint_at_hand(run, imported))
        except PipelineError as error:
            sys.exit(f"error: {name}: {error}")
        except OSError as error:
            sys.exit(f"error: {name}: cannot read {error.filename}: {error.strerror}")
        return name


def problems(run: Run, hardware: Hardware, imported: Path | None) -> Iterator[str]:
    """Why a run cannot work on this hardware with this base model; `imported` is where rule `base` has put it.

    Raises:
        PipelineError: if the task's data cannot be opened, or the base model is missing, damaged or of another kind.
    """
    task = resolve_task(run.task)
    if task.check:
        task.check(run.task)
    trained: dict[str, Optimizer] = {"base": run.base} if run.base.trains else {}
    trained |= {"train": run.train} if run.rounds else {}
    for name, section in trained.items():
        yield from _batches(name, section, hardware.processes)
    if run.base.file and not Path(run.base.file).is_file():
        yield f"base.data: {run.base.file} is missing; '{TASK}' is the task's own split"
    found = read_base(run, imported)
    yield from _blocks(run, found)
    adapters = {"base.adapter": run.base.adapter, "train.adapter": run.train.adapter if run.rounds else None}
    for key, adapter in adapters.items():
        if adapter:
            yield from _targets(key, adapter, found.layers if found else None)
    if found and task.chat:
        yield from _lengths(run, found.limit)
    if found and run.base.path:
        yield from too_large(run, hardware, found.shape)


def too_large(run: Run, hardware: Hardware, shape: Shape) -> Iterator[str]:
    """Jobs whose estimated memory is more than `MARGIN` times that of `hardware.accelerator`."""
    estimate = Estimate(run, hardware, shape)
    for stage, cost in estimate.stages().items() if estimate.card else ():
        if estimate.card and cost.memory > MARGIN * estimate.card:
            card = f"{hardware.accelerator} (hardware.accelerator) has {estimate.card / 1e9:.0f}"
            yield f"rule {stage} needs about {cost.memory / 1e9:.0f} GB in a process, an {card}: {LESS_MEMORY[stage]}"


def _batches(name: str, section: Optimizer, processes: int) -> Iterator[str]:
    parts = section.gradient_accumulation_steps * processes
    if section.batch_size % parts:
        yield (
            f"{name}.batch_size {section.batch_size} is not a multiple of gradient_accumulation_steps × processes ="
            f" {section.gradient_accumulation_steps} × {processes} (see the section hardware, beside runs)"
        )


def _blocks(run: Run, found: Found | None) -> Iterator[str]:
    """Blocks of answers that are not those that the model sees."""
    if run.model.block_length and family_of(run.model.name) is None:
        yield f"model.block_length: model '{run.model.name}' does not see its input block by block"
    blocks = found.blocks if found else None
    for name, section in {"rollout": run.rollout, "evaluate": run.evaluate}.items():
        if blocks and section.block_length != blocks:
            yield f"{name}.block_length must be {blocks}, the blocks that the model sees, not {section.block_length}"


def _targets(key: str, adapter: Adapter, layers: list[str] | None) -> Iterator[str]:
    """Adapter targets that name no linear layer. Nothing is known of a user's own model."""
    for target in adapter.targets if layers is not None else ():
        if not any(layer == target or layer.endswith(f".{target}") for layer in layers or ()):
            known = {layer.rpartition(".")[2] for layer in layers or ()}
            yield f"{key}.targets: the model has no linear layer '{target}': {nearest(target, known)}"


def _lengths(run: Run, limit: int) -> Iterator[str]:
    """Numbers of answer tokens that leave no room for a prompt."""
    asked = {"task.answer_length": resolve_task(run.task).answer_length}
    asked |= {"rollout.length": run.rollout.length or 0, "rollout.block_length": run.rollout.block_length or 0}
    asked |= {"evaluate.lengths": max(run.evaluate.lengths or (0,))}
    asked |= {"evaluate.block_length": run.evaluate.block_length or 0}
    for key, length in asked.items():
        if length >= limit:
            yield f"{key} {length}: the model of base.path takes {limit} tokens, with those of the prompt"


def explain_targets(workflow: Any, params: Params) -> None:
    """When Snakemake ends: the nearest names of targets that are none."""
    known = [*params.runs, *params.suites]
    for target in getattr(workflow.dag_settings, "targets", None) or ():
        parts = Path(target).parts
        name = parts[2] if parts[:2] == ("data", "runs") and len(parts) > 2 else target
        if name not in known and not workflow.is_rule(name) and (name != target or len(parts) == 1):
            print(f"error: '{name}' is neither a run nor a suite: {nearest_target(name, known)}", file=sys.stderr)
