"""What the files of a family's checkpoint say, checked before any weight is read. Without PyTorch.

Code of a checkpoint is never run; what the network does not implement is refused.
"""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.models import FAMILIES
from pipeline.models.family import Family, Sizes, family_of
from pipeline.settings.validation import describe
from pipeline.storage.model_files import ADAPTER_CONFIG, base_of_adapters, read_config, tensor_headers

DTYPES = (None, "float32", "bfloat16", "float16", "float64")
EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
"""Keys of config.json that only a model with sparse experts has."""


def read_sizes(path: Path, family: Family, blocks: int | None = None) -> Sizes:
    """The checked config.json of a saved model; of adapters, that of their base.

    Args:
        blocks: `model.block_length`.

    Raises:
        PipelineError: for a missing file, another architecture, an unsupported option or an impossible value.
    """
    if (path / ADAPTER_CONFIG).is_file():
        return read_sizes(base_of_adapters(path), family, blocks)
    config = read_config(path, family.kind, _advice())
    family.check_blocks(config, blocks)
    try:
        return _sizes(config, family, blocks)
    except ValidationError as error:
        key, colon, rest = describe(error, Sizes).removeprefix(": ").partition(":")
        named = next((theirs for theirs, ours in family.keys.items() if ours == key and theirs in config), key)
        raise PipelineError(f"'{path}': config.json: {named}{colon}{rest}") from error
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        missing = f"config.json names no {error}" if isinstance(error, KeyError) else str(error)
        raise PipelineError(f"'{path}': {missing[:300]}") from error


def _advice() -> dict[str, str]:
    """model_type → what to do about it, for the families that are here and for those that are not."""
    found = {"llada2_moe": "its layers have sparse experts, which are not implemented here"}
    for family in filter(None, map(family_of, FAMILIES)):
        found[family.kind] = f"set model.name to {family.name}"
    return found


def _sizes(config: dict[str, Any], family: Family, blocks: int | None) -> Sizes:
    for key in EXPERTS:
        if config.get(key):
            raise ValueError(f"config.json says {key}: {config[key]!r}: sparse experts are not implemented here")
    found = {key: value for key, value in family.of_config(config).items() if value is not None}
    for key in ("hidden_act", *family.off):
        if found.get(key) and found[key] != "silu":
            raise ValueError(f"config.json says {key}: {found[key]!r}, which this model does not support")
    rope = found.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise ValueError(f"config.json says rope_parameters: {rope!r}, this model supports only the default")
    theta = rope.get("rope_theta", found.get("rope_theta", 10000.0))
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 < theta < 1e15:
        raise ValueError(f"config.json says rope_theta: {theta!r}, not a positive number")
    kind = found.get("dtype") or found.get("torch_dtype")
    if kind not in DTYPES:
        raise ValueError(f"config.json says dtype: {kind!r}, not one of {', '.join(filter(None, DTYPES))}")
    found["block_size"] = (blocks or found["block_size"]) if family.block_length else None
    return Sizes.model_validate(found)


def check_tensors(path: Path, family: Family) -> None:
    """PipelineError unless the weights are floats and those that config.json describes; reads their headers only."""
    sizes = read_sizes(path, family)
    if (path / ADAPTER_CONFIG).is_file():
        check_tensors(base_of_adapters(path), family)
        return
    wanted = family.shapes(sizes)
    found = {_renamed(name, family): (name, header.shape) for name, header in tensor_headers(path).items()}
    optional = {"lm_head.weight"} if sizes.tie_word_embeddings else set()
    problems = {
        "missing": sorted(wanted.keys() - found.keys() - optional),
        "unexpected": sorted(found[name][0] for name in found.keys() - wanted.keys()),
        "mismatched": [
            f"{found[name][0]} {list(found[name][1])}, not {list(shape)}"
            for name, shape in wanted.items()
            if name in found and found[name][1] != shape
        ],
    }
    for problem, names in problems.items():
        if names:
            raise PipelineError(f"'{path}': {problem} keys: {', '.join(names[:3])}")


def _renamed(name: str, family: Family) -> str:
    for pattern, ours in family.tensors.items():
        renamed, count = re.subn(pattern, ours, name)
        if count:
            return renamed
    return name
