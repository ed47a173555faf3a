"""Reading params.yaml: every run with its defaults filled in, validated; suites spelt out. Torch-free."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config import Params, Run, Suite, describe
from pipeline.errors import PipelineError
from pipeline.registry import nearest


def read_params(path: str | Path) -> Params:
    """The validated params.yaml; see `parse_params`."""
    try:
        text = Path(path).read_text()
        return parse_params(yaml.safe_load(text), str(path))
    except OSError as error:
        raise PipelineError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise PipelineError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def parse_params(raw: Any, source: str = "params.yaml") -> Params:
    """Fill in and validate every run, and add those that a suite asks for with further seeds.

    A run changes `defaults`, or the run that its key `like` names.

    Raises:
        PipelineError: one line that names the key and, for a misspelt one, the nearest valid key.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("runs"), dict):
        raise PipelineError(f"{source}: needs the key 'runs', a mapping from run names to what they change")
    try:
        defaults = raw.get("defaults") or {}
        runs = {name: _filled_in(name, raw["runs"], defaults, ()) for name in raw["runs"]}
        params = Params.model_validate({**raw, "defaults": defaults, "runs": runs}, context={"whole": True})
        runs = params.runs | _replicas(params)
    except ValidationError as error:
        raise PipelineError(f"{source}: {describe(error, Params)}") from error
    except PipelineError as error:
        raise PipelineError(f"{source}: {error}") from error
    if params.default_run not in runs:
        raise PipelineError(f"{source}: default_run names {_unknown(params.default_run, runs)}")
    return params.model_copy(update={"runs": runs})


def members(params: Params, suite: Suite) -> list[str]:
    """The names of a suite's runs."""
    return [_replica(params, run, seed) for run in suite.runs for seed in suite.seeds or [params.runs[run].seed]]


def merge(defaults: Any, changes: Any) -> Any:
    """`defaults` with the keys of `changes` replaced, section by section; a plug-in of another name starts afresh."""
    if not isinstance(defaults, dict) or not isinstance(changes, dict):
        return changes
    if "name" in changes and changes["name"] != defaults.get("name"):
        return changes
    return {**defaults, **{key: merge(defaults.get(key), value) for key, value in changes.items()}}


def _filled_in(name: str, runs: dict[str, Any], defaults: Any, seen: tuple[str, ...]) -> Any:
    changes = dict(runs[name] or {}) if isinstance(runs[name], dict | None) else runs[name]
    like = changes.pop("like", None) if isinstance(changes, dict) else None
    if like is None:
        return merge(defaults, changes)
    if like not in runs:
        raise PipelineError(f"runs.{name}.like names {_unknown(like, runs)}")
    if like in (*seen, name):
        raise PipelineError(f"runs.{name}.like goes round in a circle: {' -> '.join((*seen, name, like))}")
    return merge(_filled_in(like, runs, defaults, (*seen, name)), changes)


def _replicas(params: Params) -> dict[str, Run]:
    replicas = {}
    for name, suite in params.suites.items():
        for run in suite.runs:
            if run not in params.runs:
                raise PipelineError(f"suites.{name} names {_unknown(run, params.runs)}")
            for seed in suite.seeds or []:
                replicas[_replica(params, run, seed)] = params.runs[run].model_copy(update={"seed": seed})
    return replicas


def _replica(params: Params, run: str, seed: int) -> str:
    return run if seed == params.runs[run].seed else f"{run}-seed{seed}"


def _unknown(run: Any, runs: dict[str, Any]) -> str:
    return f"unknown run '{run}': {nearest(str(run), list(runs))}"
