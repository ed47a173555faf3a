"""params.yaml and the settings of a stage on its command line."""

import copy
import datetime
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings.params_file import Params, parse_params, read_params, runs_of_suite
from pipeline.settings.project import Hardware
from pipeline.settings.stages import STAGES, parse_settings, settings_json
from pipeline.workflow.preflight import problems
from tests.hostile.harness import changed, damaged, examples, json_bytes, line_of, working_directory
from tests.small_workflow import SMALL

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


CHAIN = {f"r{n}": {"extends": f"r{n - 1}"} for n in range(1, 1500)}
SWEEPS = {
    f"s{n}": {"runs": {"plain": {"train.lr": [(n + k / 20) / 9 for k in range(1, 11)]}}, "seeds": list(range(200))}
    for n in range(6)
}


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("runs", PARAMS["runs"] | CHAIN | {"r0": {}}, ".extends goes over more than 50 other runs"),
        ("suites", SWEEPS, "suites.s5: the suites ask for more than 10,000 runs"),
        ("hardware", {"processes": 10**9}, "hardware.processes: input should be less than or equal to 1024"),
        ("hardware", {"runs": {"small": 10**9}}, "hardware.runs.small: input should be less than or equal to 1024"),
        ("defaults", {"model": {"hidden_size": 64 * 10**9}}, "model.hidden_size: input should be less than or equal"),
        ("defaults", {"model": {"num_hidden_layers": 2000}}, "num_hidden_layers: input should be less than or equal"),
        ("defaults", {"seed": True}, "defaults.seed: must be a number, not true"),
        ("defaults", {"train": {"lr": True}}, "train.lr: must be a number, not true"),
        ("defaults", {"train": {"betas": [False, 0.9]}}, "train.betas: must be a number, not false"),
        ("defaults", {"task": {"name": "sudoku", "train_items": True}}, "train_items: must be a number, not true"),
    ],
)
def test_absurd_values(section, value, message):
    """Each would run for hours, fill the memory or count as something else."""
    with working_directory() as work:
        (work / "params.yaml").write_text(yaml.safe_dump(PARAMS | {section: value}))
        assert line_of(lambda: use(work / "params.yaml"), message)


def test_keys_that_are_no_texts():
    """JSON, of which the generated files are made, has none."""
    for key in (3, None, True, 1.5, datetime.date(2020, 1, 1), ("a", "b")):
        for name in ("runs", "defaults", "suites", "describe", "keep", "hardware"):
            params = copy.deepcopy(PARAMS)
            params.setdefault(name, {})[key] = {"updates": 3}
            with working_directory() as work:
                (work / "params.yaml").write_text(yaml.dump(params))
                assert line_of(lambda: use(work / "params.yaml"), "params.yaml")


def test_the_name_of_a_base_that_no_file_can_have():
    params = PARAMS | {
        "runs": {"small": {"base": {"path": "x" * 5000}, "task": {"name": "gsm8k"}}},
        "suites": {},
        "hardware": {},
    }
    run = parse_params(params).runs["small"]
    assert line_of(lambda: list(problems(run, Hardware(), Path("none"))), "base.path: File name too long: 'xxx")


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
