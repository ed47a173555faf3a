"""What is checked of a run before any of its jobs starts, dry runs included; each mistake ends Snakemake in one line.

Only runs that the wanted targets need are checked, against the hardware and, without reading weights, the files of
their base model; items that are at hand, too. Torch-free.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import PipelineError
from pipeline.models import WITHOUT_ADAPTERS, masked_lm_files
from pipeline.models.family import Family, Sizes, check_tensors, family_of, read_sizes
from pipeline.models.flops import Shape
from pipeline.plugins import nearest, resolve_task
from pipeline.runtime.memory_limits import LESS_MEMORY
from pipeline.settings.params_file import Params
from pipeline.settings.run import Run
from pipeline.settings.sections import TASK, Adapter, Hardware, Optimizer
from pipeline.storage.model_files import read_config, read_object, tensor_headers
from pipeline.text.byte_level import is_saved_in
from pipeline.workflow.estimate import Estimate
from pipeline.workflow.item_check import check_items

MARGIN = 1.2
"""How far an estimate of memory may be off."""
SECONDS = 5.0
"""How long a dry run waits for the Hub."""


class Found(NamedTuple):
    """What the files of a base model say: its sizes, the most tokens of prompt and answer, the linear layers of its
    blocks if they are known, and the number of positions of a block if it sees its input block by block."""

    shape: Shape
    limit: int
    layers: list[str] | None
    blocks: int | None = None


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
        for note in map(str, self.params.left_behind.get(name, [])):
            if note not in self.said:
                self.said.add(note)
                print(f"note: {name}: {note}", file=sys.stderr)
        run = self.params.runs[name]
        imported = Path("data/runs", self.origins[name], "round_000", "policy")
        try:
            for problem in problems(run, self.params.hardware.of(name, run.model.name), imported):
                sys.exit(f"error: {name}: {problem}")
            if self.origins[name] not in self.with_items and (checkpoint := checkpoint_at_hand(run, imported)):
                self.with_items.add(self.origins[name])
                check_items(name, self.params.runs, self.origins, checkpoint)
        except PipelineError as error:
            sys.exit(f"error: {name}: {error}")
        except OSError as error:
            sys.exit(f"error: {name}: cannot read {error.filename}: {error.strerror}")
        return name


def problems(run: Run, hardware: Hardware, imported: Path) -> Iterator[str]:
    """Why a run cannot work on this hardware with this base model; `imported` is where rule `base` puts it.

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
        if section.gradient_checkpointing and run.model.name in WITHOUT_ADAPTERS:
            yield f"{name}.gradient_checkpointing: model '{run.model.name}' cannot recompute its activations"
    if run.base.file and not Path(run.base.file).is_file():
        yield f"base.data: {run.base.file} is missing; '{TASK}' is the task's own split"
    found = _base(run, imported)
    yield from _blocks(run, found)
    adapters = {"base.adapter": run.base.adapter, "train.adapter": run.train.adapter if run.rounds else None}
    for key, adapter in adapters.items():
        if adapter:
            yield from _targets(run.model.name, key, adapter, found.layers if found else None)
    if found and task.chat:
        yield from _lengths(run, found.limit)
    if found and run.base.path:
        yield from too_large(run, hardware, found.shape)


def too_large(run: Run, hardware: Hardware, shape: Shape) -> Iterator[str]:
    """Why a job's memory, as estimated, exceeds that of `hardware.accelerator` by so much that the estimate cannot be
    what is wrong."""
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


def _targets(model: str, key: str, adapter: Adapter, layers: list[str] | None) -> Iterator[str]:
    """Adapter targets that name no linear layer. Nothing is known of a user's own model."""
    if model in WITHOUT_ADAPTERS:
        yield f"{key}: model '{model}' takes no adapters"
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


def _base(run: Run, imported: Path) -> Found | None:
    """What the files of the base model say, if it is of a known kind and its config.json can be read here."""
    name, family = run.base.path, family_of(run.model.name)
    if name is None:
        return _of_family(_embedded(run, family), family) if family else None
    if (path := _directory(name, imported)) is not None:
        _check_files(path, run.model.name, family, chat=resolve_task(run.task).chat)
    else:
        path = _on_hub(name)
    if path and family:
        return _of_family(read_sizes(path, family, run.model.block_length), family)
    if path and run.model.name == masked_lm_files.NAME:
        return _of_encoder(path)
    return None


def _of_family(sizes: Sizes, family: Family) -> Found:
    shape, layers = Shape.of(sizes.model_dump()), family.linear_layers(sizes)
    return Found(shape, sizes.max_position_embeddings, layers, sizes.block_size)


def _of_encoder(path: Path) -> Found:
    sizes = masked_lm_files.read_sizes(path)
    layers = masked_lm_files.linear_layers(path) if masked_lm_files.has_weights(path) else None
    return Found(Shape.of(sizes.model_dump()), sizes.max_position_embeddings, layers)


def _directory(name: str, imported: Path) -> Path | None:
    """The checkpoint of this name, if it is a directory or has been imported."""
    return Path(name) if Path(name).is_dir() else imported if (imported / "config.json").is_file() else None


def checkpoint_at_hand(run: Run, imported: Path) -> Path | None:
    """The directory of the checkpoint that a run starts from, also in the Hub's cache; None if it is not here."""
    name = run.base.path
    if name is None:
        return None
    if found := _directory(name, imported):
        return found
    import huggingface_hub as hub  # noqa: PLC0415  (not needed for directories)

    cached = hub.try_to_load_from_cache(name, "tokenizer.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _embedded(run: Run, family: Family) -> Sizes:
    family.check_blocks({}, run.model.block_length)
    blocks = run.model.block_length or family.block_length
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return Sizes(mask_token_id=0, block_size=blocks, **{name: getattr(run.model, name) for name in names})


def _check_files(path: Path, name: str, family: Family | None, *, chat: bool) -> None:
    if family:
        check_tensors(path, family)
    elif name == masked_lm_files.NAME:
        masked_lm_files.check_tensors(path)
    elif name in WITHOUT_ADAPTERS:
        read_config(path, name)
        tensor_headers(path)
    if not (path / "tokenizer.json").is_file() and not is_saved_in(path):
        raise PipelineError(f"base.path: {path / 'tokenizer.json'} is missing")
    try:
        template = chat and not (path / "chat_template.jinja").is_file()
        if template and not read_object(path / "tokenizer_config.json").get("chat_template"):
            raise ValueError("it has none")
    except ValueError as error:
        raise PipelineError(f"base.path: '{path}' has no chat template: tokenizer_config.json: {error}") from error


def _on_hub(name: str) -> Path | None:
    """The directory of a checkpoint's config.json from the Hub; None where the Hub cannot be reached.

    Raises:
        PipelineError: if there is no checkpoint of this name.
    """
    import huggingface_hub as hub  # noqa: PLC0415  (not needed for directories)
    from huggingface_hub import errors  # noqa: PLC0415

    missing = f"base.path: '{name}' is neither a directory nor a model on the Hub"
    try:
        if isinstance(cached := hub.try_to_load_from_cache(name, "config.json"), str):
            return Path(cached).parent
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json"), timeout=SECONDS)
        return Path(hub.hf_hub_download(name, "config.json", etag_timeout=SECONDS)).parent
    except (errors.HFValidationError, errors.RepositoryNotFoundError) as error:
        raise PipelineError(missing) from error
    except errors.LocalEntryNotFoundError:
        return None
    except errors.EntryNotFoundError as error:
        raise PipelineError(f"{missing}: it has no config.json") from error
    except Exception:  # whatever the network raises: rule `base` will say it
        return None


def explain_targets(workflow: Any, params: Params) -> None:
    """When Snakemake ends: the nearest names of targets that are none."""
    known = [*params.runs, *params.suites]
    for target in getattr(workflow.dag_settings, "targets", None) or ():
        parts = Path(target).parts
        name = parts[2] if parts[:2] == ("data", "runs") and len(parts) > 2 else target
        if name not in known and not workflow.is_rule(name) and (name != target or len(parts) == 1):
            hint = nearest(name, known, all_of_many="`python -m pipeline.workflow.targets` lists all")
            print(f"error: '{name}' is neither a run nor a suite: {hint}", file=sys.stderr)
