"""`python -m pipeline.settings.json_schema > params.schema.json`: the keys of params.yaml for editors. Torch-free.

An editor with YAML support completes keys, shows what sections mean and underlines what does not fit. The checks that
decide are those of `params_file`; a JSON schema cannot express contradictions between keys. A plug-in of one's own,
named by its import path, may have any keys.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from pipeline.plugins import KINDS, load_task
from pipeline.settings.algorithms import SETTINGS
from pipeline.settings.params_file import Params

Schema = dict[str, Any]
NAMED = ("properties", "$defs")
"""Keywords whose keys are names, not keywords."""
OWN = {"type": "string", "pattern": r"\."}
"""The import path of a plug-in of one's own."""


def params_schema() -> Schema:
    """The JSON schema of params.yaml."""
    schema = _plain(Params.model_json_schema())
    run, kinds = schema["$defs"]["Run"], schema["$defs"]["ModelSection"]["properties"]
    known = {name: load_task(name).settings for name in KINDS["task"].NAMES}
    kinds["name"] = _name(KINDS["model"].NAMES)
    run["properties"]["extends"] = {"type": "string", "description": "the run that this one starts from"}
    run["properties"]["task"] = _of_plugins(known, schema["$defs"])
    run["properties"]["algorithm"] = _of_plugins(SETTINGS, schema["$defs"])
    schema["properties"]["runs"]["additionalProperties"] = {"anyOf": [{"$ref": "#/$defs/Run"}, {"type": "null"}]}
    for unused in ("PluginSection", "Settings"):
        del schema["$defs"][unused]
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def _of_plugins(schemas: Mapping[str, type[BaseModel]], definitions: Schema) -> Schema:
    """A section with the keys of all plug-ins of a kind: a run that extends another need not repeat their name."""
    keys: dict[str, list[Schema]] = {}
    for settings in schemas.values():
        schema = _plain(settings.model_json_schema())
        definitions |= schema.get("$defs", {})
        for key, value in schema["properties"].items():
            keys.setdefault(key, []).append(value)
    properties = {key: _any_of(values) for key, values in keys.items()} | {"name": _name(schemas)}
    return {
        "type": "object",
        "if": {"properties": {"name": OWN}, "required": ["name"]},
        "else": {"properties": properties, "additionalProperties": False},
    }


def _any_of(schemas: list[Schema]) -> Schema:
    """A schema for what fits one of these; it has a default only if all agree on it."""
    different = [schema for number, schema in enumerate(schemas) if schema not in schemas[:number]]
    if len(different) > 1:
        bare = [{key: value for key, value in schema.items() if key != "default"} for schema in different]
        different = [schema for number, schema in enumerate(bare) if schema not in bare[:number]]
    return different[0] if len(different) == 1 else {"anyOf": different}


def _name(names: Iterable[str]) -> Schema:
    return {"anyOf": [{"enum": list(names)}, OWN]}


def _plain(schema: Any) -> Any:
    """The schema without titles, which repeat the keys, and without defaults of whole sections, which repeat theirs."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: value for key, value in schema.items() if key != "title" and not _is_section(key, value)}
    named = {key: {name: _plain(part) for name, part in found[key].items()} for key in NAMED if key in found}
    return {key: named.get(key) or _plain(value) for key, value in found.items()}


def _is_section(key: str, value: object) -> bool:
    return key == "default" and isinstance(value, dict)


if __name__ == "__main__":
    print(json.dumps(params_schema(), indent=1, ensure_ascii=False))
