"""Mistakes that cost hours when a late job finds them: `snakemake -n` ends with one line that names the key."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from snakemake.cli import main

from pipeline.models import NAMES
from pipeline.plugins import load_model
from pipeline.settings.features import LACKING
from pipeline.settings.params_file import parse_params, read_params
from pipeline.settings.project import Hardware
from pipeline.workflow import early_checks, preflight
from pipeline.workflow.estimate import shape_of
from tests.conftest import ROOT, said
from tests.models.hub import LLADA_8B
from tests.small_workflow import Workflow
from tests.workflow.conftest import BLOCKS, chat, problems


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"train": {"batch_size": 33}}, "train.batch_size 33 is not a multiple of gradient_accumulation_steps × pro"),
        ({"base": {"batch_size": 6, "gradient_accumulation_steps": 2}}, "base.batch_size 6 is not a multiple of "),
        (
            {"train": {"adapter": {"targets": ["q_proj", "c_attn"]}}},
            "train.adapter.targets: the model has no linear layer 'c_attn': known: down_proj, gate_proj, k_proj",
        ),
        ({"train": {"adapter": {"targets": ["up_pro"]}}}, "no linear layer 'up_pro': did you mean 'up_proj'?"),
        ({"train": {"adapter": {"targets": ["proj"]}}}, "no linear layer 'proj': did you mean '"),
        ({"train": {"adapter": {"targets": ["layers.3.self_attn.q_proj"]}}}, "no linear layer 'layers.3.self_attn.q_"),
        ({"train": {"adapter": {"targets": ["embed_tokens"]}}}, "no linear layer 'embed_tokens'"),
    ],
)
def test_what_no_file_is_needed_for(run, message):
    (found,) = problems(run, processes=2)
    assert message in found


def test_what_is_right():
    assert problems({"train": {"batch_size": 33, "gradient_accumulation_steps": 3}}, processes=1) == []
    assert problems({"train": {"adapter": {"targets": ["q_proj", "layers.2.mlp.up_proj"]}}}, processes=2) == []
    only_decodes = {"rounds": 0, "algorithm": {"name": "svdd"}, "train": {"batch_size": 33}}
    assert problems(only_decodes, processes=2) == []


@pytest.mark.parametrize("name", NAMES)
def test_what_models_lack(name):
    plugin = load_model(name)
    has = {"adapter": plugin.adapters, "cache": plugin.caches_blocks, "gradient_checkpointing": plugin.recompute}
    assert {key for key in has if not has[key]} == set(LACKING.get(name, ()))


@pytest.mark.parametrize(
    ("sections", "wanted"),
    [
        ({"model": {"name": "sdar"}, **BLOCKS}, []),
        ({"model": {"name": "sdar", "block_length": 8}, **{name: {"block_length": 8} for name in BLOCKS}}, []),
        (
            {"model": {"name": "sdar", "block_length": 8}, **BLOCKS, "evaluate": {}},
            [
                "rollout.block_length must be 8, the blocks that the model sees, not 4",
                "evaluate.block_length must be 8, the blocks that the model sees, not None",
            ],
        ),
        (
            {"model": {"name": "mlp", "block_length": 4}},
            ["model.block_length: model 'mlp' does not see its input block by block"],
        ),
    ],
)
def test_answers_are_revealed_in_the_blocks_that_a_model_sees(sections, wanted):
    assert problems(sections, processes=2) == wanted


@pytest.fixture
def dry_run(workflow: Workflow, monkeypatch: pytest.MonkeyPatch):
    """Snakemake's dry run in this process."""
    monkeypatch.chdir(workflow.directory)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*targets: str) -> str:
        return said(lambda: main([*workflow.command("--dry-run", *targets)[3:]]))

    return run


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("train", {"batch_size": 33}, "small: train.batch_size 33 is not a multiple of gradient_accumulation_steps × "),
        ("train", {"adapter": {"targets": ["query"]}}, "small: train.adapter.targets: the model has no linear layer"),
        ("base", {"path": "no/such/place"}, "small: base.path: 'no/such/place' is neither a directory nor a model on"),
        ("base", {"path": "x" * 300}, f"small: base.path: File name too long: '{'x' * 80}…'"),
    ],
)
def test_a_dry_run_ends_in_one_line(dry_run, workflow, section, change, message):
    workflow.params["runs"]["small"] = {section: change}
    workflow.params["hardware"]["processes"] = 2
    assert message in dry_run()


def test_a_base_made_with_other_settings_stands_for_none(copied):
    """So a wrong path is found also where a base lies where this one would."""
    copied.params["runs"]["small"] = {"base": {"path": "no/such/place"}}
    assert "error: small: base.path: 'no/such/place' is neither" in copied("--dry-run", ok=False)


def with_late_row(workflow: Workflow, checkpoint: Path) -> None:
    """Forty questions and one that holds [MASK], for a chat model."""
    rows = [{"question": f"How many {word}?", "answer": "#### 1"} for word in [*range(40), "<|mdm_mask|>"]]
    (workflow.directory / "late_row.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": "late_row.jsonl", "test_items": 4}
    workflow.params["runs"] = {"small": chat(checkpoint, task={"name": "gsm8k", "data": data, "answer_length": 64})}
    workflow.params["defaults"] = {}


def test_a_late_row_is_found_before_anything_runs(dry_run, workflow, checkpoint):
    with_late_row(workflow, checkpoint)
    item = r"small: the prompt of item \d+ of the split 'train' \(late_row.jsonl, line 41\)"
    assert re.fullmatch(item + r" holds the token <\|mdm_mask\|>", dry_run())
    assert not (workflow.directory / "data").exists()


def test_a_base_without_items_is_found_before_anything_runs(dry_run, workflow):
    """Of a user's own task, without a checkpoint at hand; with one of its own, the base needs no items."""
    (workflow.directory / "nobase").mkdir()
    source = (ROOT / "examples" / "words.py").read_text()
    without = source.replace("PLUGIN =", "def only(*of):\n    return items(*of) | {'base': []}\n\n\nPLUGIN =")
    (workflow.directory / "nobase" / "task.py").write_text(without.replace("items=items", "items=only"))
    workflow.params["runs"] = {"small": {"task": {"name": "nobase.task"}}}
    assert dry_run().startswith("small: the task has no items in the split 'base', which a base without base.path or ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'reward': float('nan')}", "small: the reward is nan, not a finite number, on item 0 (rows.jsonl, "),
        ("return {'reward': item.references}", "no attribute 'references' (task.py, line 5) on item 0 (rows.jsonl"),
    ],
)
def test_a_reward_is_tried_before_anything_runs(dry_run, workflow, checkpoint, request, body, message):
    package = f"tried{abs(hash(request.node.nodeid))}"  # a module is imported once
    (workflow.directory / package).mkdir()
    task = "from dataclasses import replace\nfrom pipeline.tasks.gsm8k import PLUGIN\n\ndef score(item, answer):\n    "
    (workflow.directory / package / "task.py").write_text(f"{task}{body}\nPLUGIN = replace(PLUGIN, score=score)")
    rows = [{"question": f"How many {word}?", "answer": "#### 1"} for word in range(8)]
    (workflow.directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": "rows.jsonl", "test_items": 4}
    run = chat(checkpoint, task={"name": f"{package}.task", "data": data, "answer_length": 64})
    workflow.params |= {"runs": {"small": run}, "defaults": {}}
    assert message in dry_run()


def test_items_of_ones_own_are_checked_whatever_data_the_task_may_have(dry_run, workflow):
    """A task made from gsm8k, whose data are on the Hub unless `data` says otherwise."""
    (workflow.directory / "own_items").mkdir()
    task = "from dataclasses import replace\nfrom pipeline.tasks.gsm8k import PLUGIN\n"
    task += "def items(settings, seed):\n    return {'train': [], 'tset': []}\nPLUGIN = replace(PLUGIN, items=items)"
    (workflow.directory / "own_items" / "task.py").write_text(task)
    run = chat(ROOT / "examples" / "tiny-llada", task={"name": "own_items.task"})
    workflow.params |= {"runs": {"small": run}, "defaults": {}}
    assert "no split is called 'tset': did you mean 'test'?" in dry_run()


def test_an_error_is_found_before_later_lines():
    lines = "import atexit, sys; atexit.register(print, 'bye', file=sys.stderr); sys.exit('error: too long')"
    assert early_checks._said([sys.executable, "-c", lines]) == "error: too long"


def test_items_that_take_too_long_are_left_to_the_rules(workflow, checkpoint, monkeypatch, capsys):
    """The process ends with all that it has started."""
    monkeypatch.chdir(workflow.directory)
    monkeypatch.setattr(early_checks, "SECONDS", 0.5)
    with_late_row(workflow, checkpoint)
    params, before = parse_params(workflow.params), psutil.Process().children()
    early_checks.check_items("small", params.runs, {"small": "small"}, checkpoint)
    assert "note: small: its items and reward took longer than 0.5 s; rules check them" in capsys.readouterr().err
    assert psutil.Process().children() == before


def test_only_runs_that_are_needed_are_checked(workflow):
    """What a run leaves behind is said once, and the nearest names of a target that is none."""
    workflow.params["runs"] |= {"wrong": {"train": {"batch_size": 33}}, "rwr": {"algorithm": {"name": "raft"}}}
    workflow.params["hardware"]["processes"] = 2
    output = workflow("--dry-run", "small", "rwr", "--quiet", "rules")
    assert output.count("note: rwr: algorithm.largest_step of defaults or of the extended run is left out: ") == 1
    output = workflow("--dry-run", "smal", ok=False)
    assert "error: 'smal' is neither a run nor a suite: did you mean 'small'? known: rwr, small, wrong" in output


def test_a_target_that_is_none_of_many(capsys):
    asked = SimpleNamespace(dag_settings=SimpleNamespace(targets=["tabel"]), is_rule=lambda name: False)
    preflight.explain_targets(asked, read_params(ROOT / "params.yaml"))
    wanted = "did you mean 'table'? `python -m pipeline.workflow.targets` lists all"
    assert capsys.readouterr().err == f"error: 'tabel' is neither a run nor a suite: {wanted}\n"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, ["train needs about 237 GB"]),
        ({"model": {"dtype": "bfloat16"}, "train": {"adapter": {}}}, []),
        (
            {
                "model": {"dtype": "bfloat16"},
                "train": {"adapter": {}},
                "rollout": {"batch_size": 4096, "order": "confidence"},
            },
            ["rollout needs"],
        ),
    ],
)
def test_jobs_that_no_card_of_the_named_kind_can_hold(changes, wrong):
    chat = {"name": "countdown", "template": "chat", "profile": "d1", "answer_length": 256}
    raw = {
        "default_run": "large",
        "runs": {
            "large": {
                "task": chat,
                "base": {"path": "GSAI-ML/LLaDA-8B-Base"},
                "evaluate": {"batch_size": 32, "block_length": 32},
                **changes,
            }
        },
    }
    run = parse_params(raw).runs["large"]
    found = list(preflight.too_large(run, Hardware(accelerator="h100"), LLADA_8B))
    assert len(found) == len(wrong) and all(part in problem for part, problem in zip(wrong, found, strict=True)), found


def test_the_named_runs_fit_their_card():
    params = read_params(ROOT / "params.yaml")
    published = {name: run for name, run in params.runs.items() if run.base.path and "runs/" not in run.base.path}
    named = {name: (run, shape_of(run)) for name, run in published.items()}
    known = {name: (run, shape) for name, (run, shape) in named.items() if shape}
    assert len(known) == 27
    for name, (run, shape) in known.items():
        assert not list(preflight.too_large(run, params.hardware.of(name, run.model.name), shape)), name
