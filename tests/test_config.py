"""Bad configurations: one line that names the key and what would be right."""

import copy

import pytest

from pipeline.errors import PipelineError
from pipeline.params import members, parse_params, read_params
from tests.conftest import ROOT, SMALL


def broken(path: str, value: object) -> dict:
    raw = copy.deepcopy(SMALL)
    section = raw
    *parents, key = path.split(".")
    for parent in parents:
        section = section[parent]
    section[key] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("defaults.train.learning_rat", 1, "unknown key 'defaults.train.learning_rat'"),
        ("defaults.train.update", 1, "did you mean 'updates'"),
        ("runs.small", {"round": 3}, "unknown key 'runs.small.round': did you mean 'rounds'"),
        ("defaults.task", {"name": "sudok"}, "unknown task 'sudok': did you mean 'sudoku'"),
        ("defaults.task.test_item", 3, "unknown key 'test_item': did you mean 'test_items'"),
        ("defaults.task", {"name": "countdown", "data": {"pth": "x"}}, "unknown key 'data.pth': did you mean 'path'"),
        ("defaults.task", {"name": "gsm8k", "data": {"pth": "x"}}, "unknown key 'data.pth': did you mean 'path'"),
        ("defaults.task", {"name": "countdown", "data": {}}, "data: needs either hub, the id of a data set, or path"),
        ("defaults.task", {"name": "math500", "profile": "loose"}, "profile: input should be 'd1' or 'strict'"),
        ("defaults.task", {"name": "math500", "template": "compact"}, "template: input should be 'chat'"),
        ("defaults.model.name", "lada", "unknown model 'lada': did you mean 'llada'"),
        ("defaults.algorithm.name", "dan", "unknown algorithm 'dan': did you mean 'dam'"),
        ("defaults.task", {"name": "gsm8k"}, "has chat prompts here, which can be scored"),
        ("defaults.rounds", 0, "rounds is 0, but algorithm 'dam' trains"),
        ("defaults.rounds", "ten", "defaults.rounds: input should be a valid integer"),
        ("defaults.algorithm.alpha", 0, "algorithm: alpha: input should be greater than 0"),
        ("defaults.algorithm.tilt", "anealed", "input should be 'direct' or 'annealed'"),
        ("defaults.train.batch_size", 33, None),
        ("defaults.train.adapter", {}, None),
        ("defaults.train.adapter", {"rnak": 8}, "unknown key 'defaults.train.adapter.rnak': did you mean 'rank'"),
        ("defaults.model.dtype", "float16", "input should be 'float32' or 'bfloat16'"),
        ("hardware.sharding", "half", "input should be 'none' or 'full'"),
        ("keep", {"buffers": 0}, "keep.buffers: must be all, or a number of rounds from 1"),
        ("keep", {"optimiser": 1}, "unknown key 'keep.optimiser': did you mean 'optimizer'"),
        ("defaults.base.exact", True, "base.exact needs an enumerated task, not 'sudoku'"),
        ("defaults.algorithm", {"name": "dam_analytic"}, "needs exact: task 'sudoku' is not enumerated"),
        ("defaults.algorithm", {"name": "svdd"}, "algorithm 'svdd' only decodes: set rounds to 0, not 2"),
        ("defaults.algorithm", {"name": "dtm"}, "needs rollout.branch: reciprocal"),
        ("defaults.algorithm", {"name": "dtm", "jumps": "all"}, "unknown key 'jumps'"),
        ("default_run", "smal", "names unknown run 'smal': did you mean 'small'"),
        ("hardware.models", {"tabula": 1}, "hardware.models: unknown model 'tabula': did you mean 'tabular'"),
        ("runs", None, "needs the key 'runs'"),
        ("runs.other", {"like": "smal"}, "runs.other.like names unknown run 'smal': did you mean 'small'"),
        ("runs.small", {"like": "small"}, "runs.small.like goes round in a circle: small -> small"),
        ("suites", {"all": {"runs": ["smal"]}}, "suites.all names unknown run 'smal'"),
        ("suites", {"all": {"runs": {"small": {"train.lrr": [1]}}}}, "unknown key 'runs.small-lrr1.train.lrr'"),
        ("suites", {"all": {"runs": ["small"], "seed": [1]}}, "unknown key 'suites.all.seed': did you mean 'seeds'"),
    ],
)
def test_mistakes_are_named(path, value, message):
    raw = broken(path, value)
    if message is None:
        parse_params(raw)
        return
    with pytest.raises(PipelineError) as error:
        parse_params(raw)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_shipped_params_are_valid():
    assert read_params(ROOT / "params.yaml").default_run == "sudoku-dam"


def test_suites_and_runs_like_others():
    """`like` inherits, a plug-in of another name starts afresh, and a suite adds runs with further seeds."""
    raw = broken("runs", {"small": {"rounds": 3}, "other": {"like": "small", "train": {"lr": 0.5}}})
    params = parse_params({**raw, "suites": {"both": {"runs": ["small", "other"], "seeds": [0, 4]}}})
    assert members(params, params.suites["both"]) == ["small", "small-seed4", "other", "other-seed4"]
    assert (params.runs["other-seed4"].rounds, params.runs["other-seed4"].seed) == (3, 4)
    assert params.runs["other"].train.lr == 0.5 != params.runs["small"].train.lr


def test_sweeps():
    """One run for each combination, named by what it changes; seeds come last, where families are told apart."""
    swept = {"train.lr": [0.1, 0.5], "rollout.branch": ["reciprocal"]}
    params = parse_params({**broken("runs.small", {}), "suites": {"sweep": {"runs": {"small": swept}, "seeds": [3]}}})
    names = ["small-lr0.1-branchreciprocal-seed3", "small-lr0.5-branchreciprocal-seed3"]
    assert members(params, params.suites["sweep"]) == names
    run = params.runs[names[1]]
    assert (run.train.lr, run.rollout.branch, run.seed, run.train.updates) == (0.5, "reciprocal", 3, 8)
