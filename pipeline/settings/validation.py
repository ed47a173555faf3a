"""The sections of plug-ins against their schemas, and one line for what is wrong with a configuration. Torch-free."""

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.errors import PipelineError
from pipeline.plugins import check, load, nearest
from pipeline.settings.algorithms import SETTINGS


def checked(kind: str, name: str) -> str:
    """The name, if a plug-in of that kind may have it. ValueError otherwise."""
    try:
        check(kind, name)
    except PipelineError as error:
        raise ValueError(str(error)) from error
    return name


def schema_of(kind: str, name: Any) -> type[BaseModel]:
    """The schema of a plug-in's section: torch-free for the algorithms of this package."""
    if not isinstance(name, str):
        raise ValueError("needs a name")
    if kind == "algorithm" and name in SETTINGS:
        return SETTINGS[name]
    try:
        schema: type[BaseModel] = load(kind, name).settings
    except PipelineError as error:
        raise ValueError(str(error)) from error
    return schema


def validated(settings: dict[str, Any], schema: type[BaseModel]) -> BaseModel:
    """The settings under the schema. ValueError, in one line, if they do not fit."""
    try:
        return schema.model_validate(settings)
    except ValidationError as error:
        raise ValueError(describe(error, schema)) from error


def describe(error: ValidationError, schema: type[BaseModel]) -> str:
    """One line for the first thing that is wrong."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{where}': {nearest(str(first['loc'][-1]), _known_keys(schema, first['loc'][:-1]))}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] in ("value_error", "missing") else f" (got {first['input']!r})"
    return f"{where}: {message[:1].lower()}{message[1:]}{got}"


def _known_keys(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that the schema knows at `path`; mappings such as `runs` lead to what they hold."""
    annotation: Any = schema
    for part in path:
        fields = getattr(annotation, "model_fields", None)
        annotation = fields[str(part)].annotation if fields else get_args(annotation)[-1]
        optional = [member for member in get_args(annotation) if hasattr(member, "model_fields")]
        annotation = optional[0] if type(None) in get_args(annotation) and optional else annotation
    return list(annotation.model_fields)
