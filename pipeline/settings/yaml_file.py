"""YAML whose size is bounded: a small file cannot ask for more memory, time or recursion than a settings file needs."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import PipelineError

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
"""Values of a file with every alias written out."""
MAX_DEPTH = 30
MAX_DIGITS = 100
IN_PROGRESS = (0, 0)


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is a mistake, not the second value, and whole numbers have few digits."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            problem = f"a number of more than {MAX_DIGITS} digits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return int(super().construct_yaml_int(node))


UniqueKeys.add_constructor("tag:yaml.org,2002:int", UniqueKeys.construct_yaml_int)


def read_yaml(path: Path) -> object:
    """The content of a YAML file. PipelineError, in one line, if it cannot be read, is no YAML or is too large."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise PipelineError(f"{path} has more than {MAX_BYTES} bytes")
        return _constructed(text.decode("utf-8"))
    except OSError as error:
        raise PipelineError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError as error:
        raise PipelineError(f"{path}: values are nested more than {MAX_DEPTH} deep") from error
    except yaml.YAMLError as error:
        raise PipelineError(f"{path} is not valid YAML: {_in_one_line(error)}") from error
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:  # of a scalar
        raise PipelineError(f"{path} is not valid YAML: {str(error)[:200]}") from error


def _in_one_line(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the name that YAML gives to a text, "<unicode string>"."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character #x{error.character:04x} at place {error.position + 1} is not allowed"
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error)
    said = []
    for text, mark in ((error.context, error.context_mark), (error.problem, error.problem_mark)):
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        said += [f"{text}{place}"] if text else []
    return " ".join(": ".join(said).split())


def _constructed(text: str) -> object:
    """Python values of a YAML text, after its nodes have been counted."""
    loader = UniqueKeys(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, 1)
        found: object = loader.construct_document(node)
        return found
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """(number of values under a node, levels of nesting) with its aliases written out; `known` holds finished nodes."""
    if isinstance(node, yaml.ScalarNode):
        node.value.encode()  # no lone surrogates, which "\\ud800" makes
        return 1, 1
    if known.get(id(node)) == IN_PROGRESS:
        problem = "an alias stands inside the value that it names"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    if depth > MAX_DEPTH:
        raise RecursionError
    if id(node) not in known:
        known[id(node)] = IN_PROGRESS
        inner: list[Any] = node.value
        children = inner if isinstance(node, yaml.SequenceNode) else [part for pair in inner for part in pair]
        found = [_count(child, known, depth + 1) for child in children]
        known[id(node)] = 1 + sum(values for values, _ in found), 1 + max((levels for _, levels in found), default=0)
    values, levels = known[id(node)]
    if values > MAX_VALUES:
        problem = f"aliases stand for more than {MAX_VALUES} values"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    if depth + levels > MAX_DEPTH:
        raise RecursionError
    return values, levels
