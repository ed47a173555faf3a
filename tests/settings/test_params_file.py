"""Bad configurations: Snakemake stops with one line that names the key and what would be right."""

import copy
import sys
from collections.abc import Callable

import pytest
from snakemake.cli import main

from pipeline.settings.params_file import parse_params, read_params, runs_of_suite
from pipeline.settings.project import Hardware
from tests.conftest import ROOT, SMALL, Workflow, said


@pytest.fixture
def refused(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict | bytes | None], str]:
    """What Snakemake says to a params.yaml of this content, or to none, before it has written anything."""
    monkeypatch.chdir(workflow.directory)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(content: dict | bytes | None) -> str:
        workflow.params = content
        arguments = workflow.command()[3:]
        path = workflow.directory / "params.yaml"
        path.unlink() if content is None else path.write_bytes(content) if isinstance(content, bytes) else None
        line = said(lambda: main(arguments))
        assert not (workflow.directory / "data").exists()
        return line

    return run


def broken(path: str, value: object) -> dict:
    raw = copy.deepcopy(SMALL)
    if not path and isinstance(value, dict):
        return raw | value
    section = raw
    *parents, key = path.split(".")
    for parent in parents:
        section = section[parent]
    section[key] = value
    return raw


def sweep(varied: dict[str, list]) -> dict:
    """A suite `s` that varies the run `small`."""
    return {"s": {"runs": {"small": varied}}}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("defaults.train.learning_rat", 1, "unknown key 'defaults.train.learning_rat'"),
        ("defaults.train.update", 1, "did you mean 'updates'"),
        ("runs.small", {"round": 3}, "unknown key 'runs.small.round': did you mean 'rounds'"),
        ("runs.small", {"updates": 3}, "unknown key 'runs.small.updates': 'updates' is a key of base and of train"),
        ("train", {"lr": 1}, "unknown key 'train': 'train' is a key of defaults"),
        ("defaults.task", "gsm8k", "defaults.task: must be a mapping of keys to values (got 'gsm8k')"),
        ("defaults.task.test_blanks", [13, 14], "defaults.task: test_blanks must be [low, high]"),
        ("runs.small", {"hardware": {}}, "'hardware' stands at the top level of the file, beside 'runs'"),
        ("defaults.task", {"name": "sudok"}, "unknown task 'sudok': did you mean 'sudoku'"),
        ("defaults.task.test_item", 3, "unknown key 'test_item': did you mean 'test_items'"),
        ("defaults.task", {"name": "countdown", "data": {"pth": "x"}}, "unknown key 'data.pth': did you mean 'path'"),
        ("defaults.task", {"name": "gsm8k", "data": {"pth": "x"}}, "unknown key 'data.pth': did you mean 'path'"),
        ("defaults.task", {"name": "countdown", "data": {}}, "data: needs either hub, the id of a data set, or path"),
        ("defaults.task", {"name": "math500", "profile": "loose"}, "profile: input should be 'd1' or 'strict'"),
        ("defaults.task", {"name": "math500", "template": "compact"}, "template: input should be 'chat'"),
        ("defaults.model.name", "lada", "unknown model 'lada': did you mean 'llada'"),
        ("defaults.algorithm.name", "dan", "unknown algorithm 'dan': did you mean 'dam'"),
        ("defaults.task", {"name": "gsm8k"}, "asks in chat messages: base.path must name a checkpoint"),
        ("defaults.rounds", 0, "rounds is 0, but algorithm 'dam' trains"),
        ("defaults.rounds", "ten", "defaults.rounds: input should be a valid integer"),
        ("defaults.algorithm.alpha", 0, "algorithm: alpha: input should be greater than 0"),
        ("defaults.algorithm.weights", "diret", "input should be 'tempered' or 'direct'"),
        ("defaults.algorithm.tilt", "annealed", "defaults.algorithm: 'tilt' is now called weights"),
        ("defaults.rollout.branch", "root", "'defaults.rollout.branch' is now called start"),
        ("defaults.train.accumulation", 2, "'defaults.train.accumulation' is now called gradient_accumulation_steps"),
        ("runs.small", {"like": "small"}, "'runs.small.like' is now called extends"),
        ("defaults.train.adapter", {"rnak": 8}, "unknown key 'defaults.train.adapter.rnak': did you mean 'rank'"),
        ("defaults.model.dtype", "float16", "input should be 'float32' or 'bfloat16'"),
        ("hardware.sharding", "half", "input should be 'none' or 'full'"),
        ("keep", {"buffers": 0}, "keep.buffers: must be all, or a number of rounds from 1"),
        ("keep", {"optimiser": 1}, "unknown key 'keep.optimiser': did you mean 'optimizer'"),
        ("defaults.rounds", 1000, "defaults.rounds: input should be less than or equal to 999 (got 1000)"),
        ("defaults.rollout.shards", 101, "defaults.rollout.shards: input should be less than or equal to 100"),
        ("defaults.seed", -1, "defaults.seed: input should be greater than or equal to 0 (got -1)"),
        ("defaults.train.betas", [0.9, 1.5], "defaults.train.betas.1: input should be less than 1 (got 1.5)"),
        (
            "defaults.train.gradient_accumulation_steps",
            3,
            "defaults.train: batch_size 32 must be a multiple of gradient_accumulation_steps 3",
        ),
        ("defaults.train", [1], "defaults.train: must be a mapping of keys to values (got [1])"),
        ("defaults.model.hidden_size", 30, "hidden_size must be a multiple of 2"),
        ("defaults.task", {"base_items": 3}, "defaults.task: needs a name"),
        ("defaults.task", {"name": "os.path"}, "does not define PLUGIN"),
        ("default_run", None, "default_run: input should be a valid string (got None)"),
        ("runs.train", {}, "runs.train: is the name of a rule; choose another name"),
        ("runs.a/b", {}, "runs.a/b: a name is made of letters, digits"),
        ("suites", {"small": {"runs": ["small"], "seeds": [1]}}, "suites.small: is the name of a run too"),
        ("defaults.base.exact", True, "base.exact needs an enumerated task, not 'sudoku'"),
        ("defaults.algorithm", {"name": "dam_analytic"}, "needs exact: task 'sudoku' is not enumerated"),
        ("defaults.algorithm", {"name": "svdd"}, "algorithm 'svdd' only decodes: set rounds to 0, not 2"),
        ("defaults", {"algorithm": {"jumps": "all"}, "rollout": {"start": "remasked"}}, "algorithm.jumps: all"),
        ("defaults.algorithm", {"name": "dtm", "jumps": "all"}, "unknown key 'jumps'"),
        ("defaults.algorithm", {"name": "raft", "min_ess": 0.5}, "unknown key 'min_ess'"),
        (
            "defaults",
            {"algorithm": {"name": "rwr", "largest_step": 40}, "rollout": {"temperature": 0.9}},
            "algorithm.name: rwr needs rollout.temperature: 1",
        ),
        (
            "defaults",
            {
                "algorithm": {"name": "dam", "control_variate": True, "jumps": "first", "replay_rounds": 1},
                "rollout": {"start": "remasked", "block_length": 4},
            },
            "algorithm.control_variate needs rollout.start: remasked, rollout.order: random and no",
        ),
        ("default_run", "smal", "names unknown run 'smal': did you mean 'small'"),
        ("hardware.runs", {"smal*": 1, "big": 2}, "hardware.runs: 'big' is the name of no run"),
        ("describe", {"smal*": "x", "big": "y"}, "describe: 'big' is the name of no run and of no suite"),
        ("hardware.models", {"tabula": 1}, "hardware.models: unknown model 'tabula': did you mean 'tabular'"),
        ("defaults.base.lengths", [16, 8], "base.lengths: answers of task 'sudoku' have 16 tokens at least, not 8"),
        ("defaults.base.lengths", [0], "defaults.base.lengths.0: input should be greater than 0"),
        ("defaults.rollout.length", 32, "rollout.length: answers of task 'sudoku' have 16 tokens unless base.lengths"),
        ("defaults.evaluate.lengths", [16, 32], "evaluate.lengths: answers of task 'sudoku' have 16 tokens unless"),
        ("defaults", {"task": {"name": "countdown"}, "evaluate": {"lengths": [15, 30]}}, "15 tokens, no other number"),
        ("defaults.base", {"lengths": [16], "path": "x"}, "base.lengths: a saved base (base.path) is not trained"),
        (
            "defaults",
            {"base": {"lengths": [16, 32]}, "evaluate": {"lengths": [32]}},
            "evaluate.lengths must hold task.answer_length, 16",
        ),
        (
            "defaults",
            {"base": {"lengths": [16, 32]}, "model": {"name": "mlp"}},
            "base.lengths: model 'mlp' is made for answers of one length",
        ),
        ("defaults.rollout.cache", "block", "defaults.rollout: cache: block needs a block_length"),
        ("defaults.evaluate.cache", "block", "defaults.evaluate: cache: block needs a block_length"),
        ("defaults.rollout.cache", "all", "defaults.rollout.cache: input should be 'block' (got 'all')"),
        (
            "defaults",
            {"model": {"name": "mlp"}, "rollout": {"block_length": 4, "cache": "block"}},
            "rollout.cache: model 'mlp' keeps no keys and values",
        ),
        (
            "defaults",
            {"algorithm": {"name": "agrpo"}, "rollout": {"block_length": 4, "cache": "block"}},
            "algorithm.name: agrpo needs rollouts without rollout.cache",
        ),
        (
            "defaults",
            {"algorithm": {"name": "svdd"}, "rounds": 0, "evaluate": {"block_length": 4, "cache": "block"}},
            "evaluate.cache: algorithm 'svdd' decodes in its own way, which has no cache",
        ),
        ("runs", None, "needs the key 'runs'"),
        ("runs.other", {"extends": "smal"}, "runs.other.extends names unknown run 'smal': did you mean 'small'"),
        ("runs.small", {"extends": "small"}, "runs.small.extends goes round in a circle: small -> small"),
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
        ("runs." + "a" * 201, {}, "a name has at most 200 characters"),
        ("suites", ["small"], "suites: must be a mapping of keys to values"),
        ("suites", {"all": {"runs": ["small"], "seeds": [0, 0]}}, "suites.all.seeds: 0 stands twice"),
        (
            "suites",
            {"a": {"runs": {"small": {"train.lr": [1]}}}, "b": {"runs": {"small": {"base.lr": [1]}}}},
            "suites.b makes a run 'small-lr1', but there is another one of that name",
        ),
        ("runs.other", {"extends": ["small"]}, "runs.other.extends names unknown run"),
    ],
)
def test_mistakes_are_named(refused, path, value, message):
    assert message in refused(broken(path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read params.yaml: No such file or directory"),
        (b"", "params.yaml: needs the key 'runs'"),
        (b"a: [", "params.yaml is not valid YAML: while parsing a flow node"),
        (b"a:\n\tb: 1\n", "params.yaml is not valid YAML: while scanning for the next token: found character"),
        (b"a: 1\nb: 2\na: 3\n", "params.yaml is not valid YAML: the key 'a' twice (line 3, column 1)"),
        (b"\xff\xfe", "params.yaml is not valid YAML: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_file_that_is_no_params(refused, text, message):
    assert message in refused(text)


@pytest.mark.parametrize(("path", "value"), [("defaults.train.batch_size", 33), ("defaults.train.adapter", {})])
def test_what_is_right(path, value):
    parse_params(broken(path, value))


def test_the_shipped_params_are_valid():
    assert read_params(ROOT / "params.yaml").default_run == "sudoku-dam"


def test_suites_and_runs_like_others():
    """`extends` inherits, and a suite adds runs with further seeds."""
    raw = broken("runs", {"small": {"rounds": 3}, "other": {"extends": "small", "train": {"lr": 0.5}}})
    params = parse_params({**raw, "suites": {"both": {"runs": ["small", "other"], "seeds": [0, 4]}}})
    assert runs_of_suite(params, params.suites["both"]) == ["small", "small-seed4", "other", "other-seed4"]
    assert (params.runs["other-seed4"].rounds, params.runs["other-seed4"].seed) == (3, 4)
    assert params.runs["other"].train.lr == 0.5 != params.runs["small"].train.lr


def test_sweeps():
    """One run for each combination, named by what it changes; seeds come last, where families are told apart."""
    swept = {"train.lr": [0.1, 0.5], "rollout.start": ["remasked"]}
    params = parse_params({**broken("runs.small", {}), "suites": {"sweep": {"runs": {"small": swept}, "seeds": [3]}}})
    names = ["small-lr0.1-startremasked-seed3", "small-lr0.5-startremasked-seed3"]
    assert runs_of_suite(params, params.suites["sweep"]) == names
    run = params.runs[names[1]]
    assert (run.train.lr, run.rollout.start, run.seed, run.train.updates) == (0.5, "remasked", 3, 8)


def test_the_processes_of_a_run():
    """The first pattern that fits its name, else what its model has, else the number for all."""
    hardware = Hardware(processes=4, models={"mlp": 2}, runs={"table-*": 1})
    found = [hardware.of(*names).processes for names in (("table-dam", "mlp"), ("dam", "mlp"), ("dam", "llada"))]
    assert found == [1, 2, 4]


def test_a_run_takes_the_processes_of_the_run_that_it_extends():
    """Also over two steps, and a run of a sweep; a pattern for its own name comes first."""
    runs = {
        "big": {},
        "mine": {"extends": "big"},
        "next": {"extends": "mine"},
        "big-own": {"extends": "mine"},
        "else": {},
    }
    raw = {"default_run": "big", "runs": runs, "suites": {"both": {"runs": ["next"], "seeds": [0, 1]}}}
    params = parse_params({**raw, "hardware": {"processes": 2, "runs": {"big-*": 4, "big": 8}}})
    found = {run: params.hardware.of(run, "llada").processes for run in params.runs}
    assert found == {"big": 8, "mine": 8, "next": 8, "big-own": 4, "else": 2, "next-seed1": 8}
