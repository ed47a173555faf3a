"""Bad configurations: Snakemake stops with one line that names the key and what would be right."""

import pytest

from pipeline.errors import PipelineError
from pipeline.settings.params_file import parse_params, read_params
from pipeline.settings.project import Hardware
from tests.conftest import ROOT
from tests.settings.conftest import broken


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
        ("defaults.algorithm.alpha", 0, "algorithm: alpha: input should be greater than or equal to 0.000000000001"),
        ("defaults.algorithm.weights", "diret", "input should be 'tempered' or 'direct'"),
        ("defaults.algorithm.tilt", "annealed", "defaults.algorithm: 'tilt' is now called weights"),
        ("defaults.rollout.branch", "root", "'defaults.rollout.branch' is now called start"),
        ("defaults.train.accumulation", 2, "'defaults.train.accumulation' is now called gradient_accumulation_steps"),
        ("runs.small", {"like": "small"}, "'runs.small.like' is now called extends"),
        ("defaults.train.adapter", {"rnak": 8}, "unknown key 'defaults.train.adapter.rnak': did you mean 'rank'"),
        ("runs.small", {"extend": "small"}, "unknown key 'runs.small.extend': did you mean 'extends'? known: "),
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
        ("defaults.base.exact", True, "base.exact needs an enumerated task, not 'sudoku'"),
        ("defaults.algorithm", {"name": "dam_analytic"}, "needs exact: task 'sudoku' is not enumerated"),
        ("defaults.algorithm", {"name": "svdd"}, "algorithm 'svdd' only decodes: set rounds to 0, not 2"),
        ("defaults", {"algorithm": {"jumps": "all"}, "rollout": {"start": "remasked"}}, "algorithm.jumps: all"),
        ("defaults.algorithm", {"name": "dtm", "jumps": "all"}, "unknown key 'jumps'"),
        ("defaults.algorithm", {"name": "raft", "min_ess": 0.5}, "unknown key 'min_ess'"),
        ("defaults.algorithm", {"min_ess": 1}, "min_ess: input should be less than 1"),
        (
            "defaults",
            {"algorithm": {"name": "dmpo"}, "train": {"batch_size": 100}},
            "train.batch_size must be a mul",
        ),
        (
            "defaults.rollout",
            {"temperature": 0.9},
            "algorithm.weights: tempered, like a gain below 1, needs rollout.temp",
        ),
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
        ("defaults.evaluate.lengths", [16, 16], "evaluate.lengths: 16 stands twice"),
        ("defaults.evaluate.samplers", ["greedy", "greedy"], "evaluate.samplers: greedy stands twice"),
        ("defaults.rollout.tokens_per_step", 10**20, "rollout.tokens_per_step: input should be less than or equal to"),
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
            "rollout.cache: model 'mlp' keeps no keys and values; set this key to null",
        ),
        ("defaults", {"model": {"name": "mlp"}, "train": {"adapter": {}}}, "train.adapter: model 'mlp' takes no adap"),
        (
            "defaults",
            {"model": {"name": "mlp"}, "base": {"gradient_checkpointing": True}},
            "base.gradient_checkpointing: model 'mlp' cannot recompute",
        ),
        (
            "defaults",
            {"algorithm": {"name": "agrpo"}, "rollout": {"block_length": 4, "cache": "block"}},
            "algorithm.name: agrpo needs rollouts without rollout.cache",
        ),
        ("defaults", {"algorithm": {"name": "agrpo"}, "rollout": {"temperature": 0.9}}, "at rollout.temperature: 1"),
        (
            "defaults",
            {"algorithm": {"name": "svdd"}, "rounds": 0, "evaluate": {"block_length": 4, "cache": "block"}},
            "evaluate.cache: algorithm 'svdd' decodes in its own way, which has no cache",
        ),
        ("runs", None, "needs the key 'runs'"),
        ("runs.other", {"extends": "smal"}, "runs.other.extends names unknown run 'smal': did you mean 'small'"),
        ("runs.small", {"extends": "small"}, "runs.small.extends goes round in a circle: small -> small"),
        ("runs." + "a" * 121, {}, "a name has at most 120 characters"),
        ("runs.other", {"extends": ["small"]}, "runs.other.extends names unknown run"),
    ],
)
def test_mistakes_are_named(refused, path, value, message):
    assert message in refused(broken(path, value))


def test_the_run_that_makes_a_mistake_is_named():
    """Not a run that extends it, wherever that stands."""
    runs = {"next": {"extends": "mine"}, "mine": {"task": {"name": "sudokuu"}}}
    with pytest.raises(PipelineError, match=r"runs\.mine\.task: unknown task 'sudokuu'"):
        parse_params({"default_run": "mine", "runs": runs})
    runs["mine"] = {}
    assert list(parse_params({"default_run": "mine", "runs": runs}).runs) == ["next", "mine"]


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


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"adapter": {}}, "base.adapter trains a saved base: it needs base.path and base.data"),
        ({"adapter": {}, "path": "x"}, "base.adapter trains a saved base: it needs base.path and base.data"),
        ({"exact": True, "data": "task"}, "base.data: an exact base is not trained"),
    ],
)
def test_keys_of_fine_tuning(section, message):
    task = {"name": "checkerboard"} if "exact" in section else {"name": "sudoku"}
    raw = {"default_run": "small", "runs": {"small": {"task": task, "base": section, "rounds": 1}}}
    with pytest.raises(PipelineError) as refused:
        parse_params(raw)
    assert message in str(refused.value)
