"""params.yaml and the settings of a stage on its command line."""

import copy
import json
from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings.params_file import Params, parse_params, read_params, runs_of_suite
from pipeline.settings.stages import STAGES, parse_settings, settings_json
from pipeline.workflow.preflight import problems
from tests.conftest import SMALL
from tests.hostile.harness import changed, damaged, examples, json_bytes, line_of, working_directory

PARAMS = copy.deepcopy(SMALL)
PARAMS["runs"] = {
    "small": {"seed": 1, "base": {"lengths": [16, 20]}, "rollout": {"start": "remasked", "length": 20}},
    "plain": {"seed": 3, "base": {"updates": 3}},
    "other": {"extends": "plain", "task": {"name": "countdown"}, "algorithm": {"name": "rwr"}},
    "picture": {"task": {"name": "pinwheel"}, "model": {"name": "tabular"}, "base": {"exact": True}},
    "adapted": {"train": {"adapter": {"rank": 4, "targets": ["q_proj"]}, "betas": [0.9, 0.99], "ema": 0.5}},
    "asked": {"task": {"name": "gsm8k", "data": {"path": "x.jsonl"}}, "base": {"path": "policy"}},
}
PARAMS["suites"] = {
    "seeds": {"runs": ["small", "picture"], "seeds": [0, 1], "published": {"small": {"reward_mean": [0.1, 0.2]}}},
    "sweep": {"runs": {"adapted": {"train.lr": [0.1, 0.2], "train.adapter.rank": [1, 2]}}},
}
PARAMS["hardware"] = {"processes": 2, "runs": {"small*": 1}, "models": {"mlp": 1}, "accelerator": "a100"}
RUN = parse_params(PARAMS).runs["adapted"]


def use(path: Path) -> Params:
    """Read the file, and do with it what the Snakefile does."""
    params = read_params(path)
    for suite in params.suites.values():
        runs_of_suite(params, suite)
    for name, run in params.runs.items():
        for stage, schema in STAGES.items():
            parse_settings(settings_json(run, stage), schema)
        if run.base.path is None:  # else a directory or the Hub is asked
            list(problems(run, params.hardware.of(name, run.model.name), Path("none")))
    return params


def test_the_unchanged_file_works():
    with working_directory() as work:
        (work / "params.yaml").write_text(yaml.safe_dump(PARAMS))
        assert len(use(work / "params.yaml").runs) == 12


@examples(100)
@given(changed(PARAMS, 3))
def test_values(params):
    with working_directory() as work:
        (work / "params.yaml").write_bytes(json_bytes(params))  # which is YAML, too
        line_of(lambda: use(work / "params.yaml"), "params.yaml", "base.path")


@examples(40)
@given(damaged(yaml.safe_dump(PARAMS).encode()))
def test_bytes(text):
    with working_directory() as work:
        (work / "params.yaml").write_bytes(text)
        line_of(lambda: use(work / "params.yaml"), "params.yaml")


@examples(20)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(("[]", "{}", "{<<: *x0}", "!!python/name:os.system", "9" * 5000)),
)
def test_bombs(depth, width, leaf):
    """Aliases that stand for width^depth values."""
    lines = [f"x0: &x0 {leaf}"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * width)}]" for n in range(1, depth)]
    text = yaml.safe_dump(SMALL) + "\n".join(lines)
    with working_directory() as work:
        (work / "params.yaml").write_text(text)
        assert line_of(lambda: use(work / "params.yaml"), "params.yaml")


@examples(30)
@given(st.sampled_from(sorted(STAGES)), st.data())
def test_settings_of_a_stage(stage, data):
    valid = settings_json(RUN, stage)
    text = data.draw(changed(json.loads(valid)).map(json_bytes) | damaged(valid.encode())).decode(errors="replace")
    line_of(lambda: parse_settings(text, STAGES[stage]), "--settings")
