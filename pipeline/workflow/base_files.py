"""What the files of a run's base model say, in a directory or on the Hub, without reading weights. Torch-free."""

from pathlib import Path
from typing import NamedTuple

from pipeline.errors import PipelineError
from pipeline.models.family import Family, Sizes, family_of
from pipeline.models.files import masked_lm as masked_lm_files
from pipeline.models.files.family import check_tensors, read_sizes
from pipeline.models.flops import Shape
from pipeline.plugins import nearest, resolve_task
from pipeline.settings.features import SMALL
from pipeline.settings.run import Run
from pipeline.storage.model_files import read_config, read_object, tensor_headers
from pipeline.text.byte_level import is_saved_in

SECONDS = 5.0
"""How long a dry run waits for the Hub."""


class Found(NamedTuple):
    """What the files of a base model say: its sizes, the most tokens of prompt and answer, the linear layers of its
    blocks if they are known, and the number of positions of a block if it sees its input block by block."""

    shape: Shape
    limit: int
    layers: list[str] | None
    blocks: int | None = None


def read_base(run: Run, imported: Path | None) -> Found | None:
    """What the files of the base model say, if it is of a known kind and its config.json can be read here."""
    name, family = run.base.path, family_of(run.model.name)
    if name is None:
        return _of_family(embedded_sizes(run, family), family) if family else None
    if (path := _directory(name, imported)) is not None:
        if run.base.revision and Path(name).is_dir():
            raise PipelineError(f"base.revision: '{name}' is a directory, which has none")
        _check(path, run.model.name, family, chat=resolve_task(run.task).chat)
    else:
        path = _on_hub(name, run.base.revision)
        if path is None:
            _refuse_misspelt_path(name)
    if path and family:
        return _of_family(read_sizes(path, family, run.model.block_length), family)
    if path and run.model.name == masked_lm_files.NAME:
        return _of_encoder(path)
    return None


def _refuse_misspelt_path(name: str) -> None:
    """PipelineError for a name that the Hub cannot be asked about and whose first part is a directory here."""
    parent = Path(name).parent
    beside = [str(path) for path in parent.iterdir() if path.is_dir()] if "/" in name and parent.is_dir() else []
    if beside:
        no_directory = f"base.path: '{name}' is no directory, and the Hub cannot be reached"
        raise PipelineError(f"{no_directory}: {nearest(name, beside)}")


def _of_family(sizes: Sizes, family: Family) -> Found:
    shape, layers = Shape.of(sizes.model_dump()), family.linear_layers(sizes)
    return Found(shape, sizes.max_position_embeddings, layers, sizes.block_size)


def _of_encoder(path: Path) -> Found:
    sizes = masked_lm_files.read_sizes(path)
    weights = any(path.glob("*.safetensors"))  # of a name on the Hub only config.json is fetched
    layers = masked_lm_files.linear_layers(path) if weights else None
    return Found(Shape.of(sizes.model_dump()), sizes.max_position_embeddings, layers)


def _directory(name: str, imported: Path | None) -> Path | None:
    """The checkpoint of this name, if it is a directory or has been imported."""
    try:
        if Path(name).is_dir():
            return Path(name)
        return imported if imported and (imported / "config.json").is_file() else None
    except OSError as error:
        raise PipelineError(f"base.path: {error.strerror}: '{name[:80]}…'") from error


def checkpoint_at_hand(run: Run, imported: Path | None) -> Path | None:
    """The directory of the checkpoint that a run starts from, also in the Hub's cache; None if it is not here."""
    name = run.base.path
    if name is None:
        return None
    if found := _directory(name, imported):
        return found
    import huggingface_hub as hub  # noqa: PLC0415  (not needed for directories)

    cached = hub.try_to_load_from_cache(name, "tokenizer.json", revision=run.base.revision)
    return Path(cached).parent if isinstance(cached, str) else None


def embedded_sizes(run: Run, family: Family) -> Sizes:
    family.check_blocks({}, run.model.block_length)
    blocks = run.model.block_length or family.block_length
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return Sizes(mask_token_id=0, block_size=blocks, **{name: getattr(run.model, name) for name in names})


def _check(path: Path, name: str, family: Family | None, *, chat: bool) -> None:
    if family:
        check_tensors(path, family)
    elif name == masked_lm_files.NAME:
        masked_lm_files.check_tensors(path)
    elif name in SMALL:
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


def _on_hub(name: str, revision: str | None) -> Path | None:
    """The directory of a checkpoint's config.json from the Hub; None where the Hub cannot be reached.

    Raises:
        PipelineError: if there is no checkpoint of this name, or no such revision of it.
    """
    import huggingface_hub as hub  # noqa: PLC0415  (not needed for directories)
    from huggingface_hub import errors  # noqa: PLC0415

    missing = f"base.path: '{name}' is neither a directory nor a model on the Hub"
    try:
        if isinstance(cached := hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
            return Path(cached).parent
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json", revision=revision), timeout=SECONDS)
        return Path(hub.hf_hub_download(name, "config.json", revision=revision, etag_timeout=SECONDS)).parent
    except (errors.HFValidationError, errors.RepositoryNotFoundError) as error:
        raise PipelineError(missing) from error
    except errors.RevisionNotFoundError as error:
        raise PipelineError(f"base.revision: '{name}' has no revision '{revision}' on the Hub") from error
    except errors.LocalEntryNotFoundError:
        return None
    except errors.EntryNotFoundError as error:
        raise PipelineError(f"{missing}: it has no config.json") from error
    except Exception:  # whatever the network raises: rule `base` will say it
        return None
