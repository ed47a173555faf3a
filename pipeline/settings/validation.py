"""The base class of params.yaml's sections, and validation errors in one line. Torch-free."""

from collections.abc import Mapping
from functools import cache
from typing import ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from pipeline.errors import PipelineError
from pipeline.plugins import check, nearest, source

SHOWN, LONGEST = 100, 600
"""Characters of a wrong value or key in an error message, and of what is said about it."""


class Section(BaseModel):
    """A part of params.yaml: immutable; unknown keys, infinities and NaN are errors.

    `renamed` maps a key's former name to what to write now; whoever still uses it is told so. `read_before` names keys
    that are taken out before the others are checked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}
    read_before: ClassVar[tuple[str, ...]] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        """YAML's `true`, `on` and `yes` are no numbers, alone or in a list; pydantic would take them as 1."""
        if _takes_numbers_only(cls, str(info.field_name)):
            for part in value if isinstance(value, list | tuple) else [value]:
                if isinstance(part, bool):
                    raise ValueError(f"must be a number, not {str(part).lower()}")
        return value


@cache
def _takes_numbers_only(section: type[BaseModel], name: str) -> bool:
    """Whether a field takes numbers, and no truth values."""
    known = _types(section.model_fields[name].annotation)
    return bool not in known and bool(known & {int, float})


def _types(annotation: object) -> set[object]:
    """The types that an annotation is made of."""
    return {annotation}.union(*map(_types, get_args(annotation)))


class PluginSection(Section):
    """The section of a plug-in: `name` says which, and the plug-in's own schema is a subclass with the other keys."""

    name: str = ""


def none_twice(entries: object) -> object:
    """A list none of whose entries stands twice, or whatever else it is. ValueError otherwise."""
    if isinstance(entries, list | tuple) and (twice := [entry for entry in entries if entries.count(entry) > 1]):
        raise ValueError(f"{twice[0]} stands twice")
    return entries


def known_plugin(kind: str, name: str) -> str:
    """The name, if there is a plug-in of that kind. ValueError otherwise."""
    try:
        check(kind, name)
        source(kind, name)
    except PipelineError as error:
        raise ValueError(str(error)) from error
    return name


def describe(error: ValidationError, schema: type[BaseModel]) -> str:
    """One line for the first thing that is wrong."""
    first = error.errors()[0]
    where = ".".join(_short(str(part)) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key, here = str(first["loc"][-1]), _schema_at(schema, first["loc"][:-1])
        if key in getattr(here, "renamed", {}):
            return f"'{where}' is now called {here.renamed[key]}"  # type: ignore[attr-defined]
        if here is not schema and key in schema.model_fields:
            return f"unknown key '{where}': '{key}' stands at the top level of the file, beside '{first['loc'][0]}'"
        sections = {name: type(field.get_default()) for name, field in here.model_fields.items()}
        if inside := [name for name, kind in sections.items() if key in getattr(kind, "model_fields", {})]:
            return f"unknown key '{where}': '{key}' is a key of {' and of '.join(inside)}"
        return f"unknown key '{where}': {nearest(key, [*here.model_fields, *getattr(here, 'read_before', ())])}"
    mapping = first["type"] in ("model_type", "model_attributes_type", "dict_type")
    message = "must be a mapping of keys to values" if mapping else first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] in ("value_error", "missing") else f" (got {_short(repr(first['input']))})"
    message = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
    return f"{where}{': ' if where else ''}{message[:1].lower()}{message[1:]}{got}"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _schema_at(schema: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The schema of what stands at `path`; mappings such as `runs` lead to what they hold."""
    here: object = schema
    for part in path:
        fields = getattr(here, "model_fields", None)
        here = fields[str(part)].annotation if fields else get_args(here)[-1]
        optional = [member for member in get_args(here) if hasattr(member, "model_fields")]
        here = optional[0] if type(None) in get_args(here) and optional else here
    assert isinstance(here, type) and issubclass(here, BaseModel)
    return here
