"""Suites: the runs that they add, by seeds and sweeps, and what they refuse."""

import pytest

from pipeline.settings.params_file import parse_params, runs_of_suite
from tests.settings.conftest import broken


def sweep(varied: dict[str, list]) -> dict:
    """A suite `s` that varies the run `small`."""
    return {"s": {"runs": {"small": varied}}}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("suites", {"small": {"runs": ["small"], "seeds": [1]}}, "suites.small: is the name of a run too"),
        ("suites", {"all": {"runs": ["smal"]}}, "suites.all names unknown run 'smal'"),
        ("suites", {"all": {"runs": ["small"], "published": {"smal": {}}}}, "suites.all names unknown run 'smal'"),
        ("suites", {"all": {"runs": {"small": {"train.lrr": [1]}}}}, "unknown key 'runs.small-lrr1.train.lrr'"),
        ("suites", {"all": {"runs": ["small"], "seed": [1]}}, "unknown key 'suites.all.seed': did you mean 'seeds'"),
        ("suites", sweep({"seed": [5, 6]}), "suites.s: 'seed' cannot be swept: give `seeds: [0, 1, …]` beside `runs`"),
        ("suites", sweep({"seed.x": [5]}), "suites.s: 'seed.x' cannot be swept: give `seeds: "),
        ("suites", sweep({"tran.lr": [5]}), "suites.s: unknown key 'tran.lr': did you mean 'train'"),
        ("suites", sweep({"extends": ["small"]}), "suites.s: unknown key 'extends'"),
        ("suites", sweep({".".join("train" for _ in range(9999)): [5]}), "suites.s: unknown key 'train.train.train"),
        ("suites", sweep({"train.lr": []}), "suites.s.runs: small: 'train.lr' has no values to sweep"),
        ("suites", sweep({"train.lr": [0.1, 0.1]}), "suites.s.runs: small: 'train.lr' has the value 0.1 twice"),
        (
            "suites",
            sweep({"train": [1], "train.lr": [1]}),
            "suites.s: 'train' has no effect in the run 'small-train1-lr1'",
        ),
        (
            "suites",
            sweep({f"train.{key}": list(range(100)) for key in ("lr", "warmup", "updates", "ema")}),
            "suites.s asks for 100,000,000 runs, at most 2,000 are possible",
        ),
        (
            "suites",
            sweep({f"train.{number}": list(range(10)) for number in range(5000)}),
            "suites.s asks for more than 10^12 runs, at most 2,000 are possible",
        ),
        (
            "suites",
            sweep({"algorithm.name": ["dtm"], "algorithm.step": [1.0], "algorithm.jumps": ["all"]}),
            "unknown key 'jumps'",
        ),
        (
            "",
            {"runs": {"small": {"base": {"path": "x"}}}, "suites": sweep({"base.lr": [0.1]})},
            "suites.s: 'base.lr' has no effect in the run 'small': its base is not trained",
        ),
        (
            "",
            {"runs": {"small": {"base": {"path": "x"}}}, "suites": sweep({"model.hidden_size": [64]})},
            "suites.s: 'model.hidden_size' has no effect in the run 'small': base.path names a model of its own",
        ),
        ("suites", ["small"], "suites: must be a mapping of keys to values"),
        ("suites", {"all": {"runs": ["small"], "seeds": [0, 0]}}, "suites.all.seeds: 0 stands twice"),
        (
            "suites",
            {"a": {"runs": {"small": {"train.lr": [1]}}}, "b": {"runs": {"small": {"base.lr": [1]}}}},
            "suites.b makes a run 'small-lr1', but there is another one of that name",
        ),
    ],
)
def test_mistakes_are_named(refused, path, value, message):
    assert message in refused(broken(path, value))


def test_suites_and_runs_like_others():
    """`extends` inherits, and a suite adds runs with further seeds."""
    raw = broken("runs", {"small": {"rounds": 3}, "other": {"extends": "small", "train": {"lr": 0.5}}})
    params = parse_params({**raw, "suites": {"both": {"runs": ["small", "other"], "seeds": [0, 4]}}})
    assert runs_of_suite(params, params.suites["both"]) == ["small", "small-seed4", "other", "other-seed4"]
    assert (params.runs["other-seed4"].rounds, params.runs["other-seed4"].seed) == (3, 4)
    assert params.runs["other"].train.lr == 0.5 != params.runs["small"].train.lr


def test_what_a_trained_base_and_a_saved_model_read_can_be_swept():
    base = {"path": "somewhere", "data": "task"}
    swept = {"base.lr": [0.1, 0.5], "model.block_length": [4]}
    raw = {**broken("runs.small", {"base": base}), "suites": {"sweep": {"runs": {"small": swept}}}}
    assert {run.base.lr for name, run in parse_params(raw).runs.items() if name != "small"} == {0.1, 0.5}


def test_sweeps():
    """One run for each combination, named by what it changes; seeds come last, where families are told apart."""
    swept = {"train.lr": [0.1, 0.5], "rollout.start": ["remasked"]}
    params = parse_params({**broken("runs.small", {}), "suites": {"sweep": {"runs": {"small": swept}, "seeds": [3]}}})
    names = ["small-lr0.1-startremasked-seed3", "small-lr0.5-startremasked-seed3"]
    assert runs_of_suite(params, params.suites["sweep"]) == names
    run = params.runs[names[1]]
    assert (run.train.lr, run.rollout.start, run.seed, run.train.updates) == (0.5, "remasked", 3, 8)
