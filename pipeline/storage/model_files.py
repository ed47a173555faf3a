"""The files of a saved model, in the Hub's layout, read without PyTorch and without the weights themselves.

No path in a file may lead out of the directory that the file belongs to. Weights are read from safetensors only.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from pipeline.errors import PipelineError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RecursionError,
    re.error,
)
"""What transformers and peft raise for an entry of a configuration that is of another type than they expect."""
FLOATS = ("F64", "F32", "F16", "BF16")


class Header(NamedTuple):
    """What a safetensors file says about a tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. ValueError if the file is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def read_optional(path: Path) -> dict[str, Any]:
    """A JSON object, {} if there is no such file. PipelineError if it holds something else."""
    try:
        return read_object(path) if path.is_file() else {}
    except ValueError as error:
        raise PipelineError(f"{path} is not a JSON object ({error})") from error


def open_config(path: Path) -> dict[str, Any]:
    """config.json of a saved model. PipelineError if the directory holds none."""
    try:
        return read_object(path / CONFIG)
    except ValueError as error:
        raise PipelineError(f"'{path}' is not a model directory: cannot read its config.json ({error})") from error


def read_config(path: Path, kind: str, advice: Mapping[str, str] | None = None) -> dict[str, Any]:
    """As `open_config`; PipelineError for another architecture than `kind`, which ends in what `advice` says of it."""
    config = open_config(path)
    if (found := config.get("model_type")) != kind:
        further = f": {advice[found]}" if advice and isinstance(found, str) and found in advice else ""
        raise PipelineError(f"'{path}' holds the architecture '{found}', not '{kind}'{further}")
    return config


def base_of_adapters(path: Path) -> Path:
    """The directory of the base model that the saved adapters in `path` name.

    Its path must lead beside them, or, for adapters of a round, among the runs. Symbolic links there are the user's
    own, for example to a larger disk, and are followed.

    Raises:
        PipelineError: if it does not, or is not there.
    """
    file = path / ADAPTER_CONFIG
    try:
        reference = str(read_object(file).get("base_model_name_or_path"))
    except ValueError as error:
        raise PipelineError(f"cannot read '{file}': {error}") from error
    home = Path(os.path.normpath(path.absolute()))
    tree = home.parents[2] if home.name == "policy" and home.parent.name.startswith("round_") else home.parent
    for place in (home / reference, Path(reference).absolute()):
        base = Path(os.path.normpath(place))
        if (base / CONFIG).is_file():
            if not (base.is_relative_to(tree) or base.resolve().is_relative_to(tree.resolve())):
                raise PipelineError(f"'{file}': base_model_name_or_path '{reference}' leads out of '{tree}'")
            return base
    raise PipelineError(f"'{file}': base_model_name_or_path names '{reference}', which is not a model directory")


def tensor_headers(path: Path) -> dict[str, Header]:
    """The tensors of a saved model by name, in model.safetensors or in the files that its index names.

    Raises:
        PipelineError: if a file is missing or truncated, lies outside the directory, or holds what is no float.
    """
    found: dict[str, Header] = {}
    for file in _weight_files(path):
        try:
            with safe_open(file, "np") as tensors:
                for name in tensors.keys():  # noqa: SIM118, no mapping
                    part = tensors.get_slice(name)
                    found[name] = Header(part.get_dtype(), tuple(part.get_shape()))
        except (OSError, SafetensorError) as error:
            problem = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({str(error)[:160]})"
            raise PipelineError(f"cannot load the weights in '{path}': {file.name} {problem}") from error
    for name, header in found.items():
        if header.dtype not in FLOATS:
            raise PipelineError(f"'{path}': the tensor '{name}' has the type {header.dtype}, not {', '.join(FLOATS)}")
    return found


def _weight_files(path: Path) -> list[Path]:
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if not (path / INDEX).is_file():
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
        advice = f", and {pickled[0]} is never opened, as it may run code: save it as safetensors" if pickled else ""
        raise PipelineError(f"cannot load the weights in '{path}': it holds no {WEIGHTS}{advice}")
    try:
        places = read_object(path / INDEX).get("weight_map")
    except ValueError as error:
        raise PipelineError(f"cannot read '{path / INDEX}': {error}") from error
    if not isinstance(places, dict) or not places:
        raise PipelineError(f"'{path / INDEX}' has no 'weight_map'")
    for file in places.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise PipelineError(f"'{path / INDEX}' names {file!r}, which is not a safetensors file beside it")
    return [path / file for file in sorted(set(places.values()))]
