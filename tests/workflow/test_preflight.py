"""Mistakes that cost hours when a late job finds them: `snakemake -n` ends with one line that names the key."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from huggingface_hub import errors
from snakemake.cli import main
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models import NAMES
from pipeline.models.llada import FAMILY
from pipeline.plugins import load_model
from pipeline.settings.params_file import parse_params, read_params
from pipeline.settings.project import Hardware
from pipeline.settings.run import SMALL
from pipeline.settings.sections import ModelSection
from pipeline.workflow import base_files, item_check, preflight, rules
from pipeline.workflow.estimate import shape_of
from tests.conftest import ROOT, Workflow, said
from tests.models import encoders, families, hub
from tests.models.hub import LLADA_8B

NOWHERE = Path("no/such/place")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return hub.write_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def copied(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def problems(run: dict, imported: Path = NOWHERE, **hardware: object) -> list[str]:
    raw = {"default_run": "small", "runs": {"small": run}}
    found = preflight.problems(parse_params(raw).runs["small"], Hardware.model_validate(hardware), imported)
    return list(found)


def chat(path: object, **sections: object) -> dict:
    task = {"name": "gsm8k", "data": {"path": "x.jsonl"}, "answer_length": 64}
    return {"task": task, "base": {"path": str(path)}, **sections}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"train": {"batch_size": 33}}, "train.batch_size 33 is not a multiple of gradient_accumulation_steps × pro"),
        ({"base": {"batch_size": 6, "gradient_accumulation_steps": 2}}, "base.batch_size 6 is not a multiple of "),
        ({"model": {"name": "mlp"}, "train": {"adapter": {}}}, "train.adapter: model 'mlp' takes no adapters"),
        (
            {"model": {"name": "mlp"}, "base": {"gradient_checkpointing": True}},
            "base.gradient_checkpointing: model 'mlp' cannot recompute",
        ),
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
def test_models_that_take_no_adapters(name):
    plugin = load_model(name)
    assert (plugin.adapters is None) == (plugin.recompute is None) == (name in SMALL)


def test_the_linear_layers_are_those_of_the_module():
    section = ModelSection(num_hidden_layers=2)
    module = load_model("llada").create(section, 9, 8, 16)
    own = {name for name, layer in module.model.named_modules() if isinstance(layer, nn.Linear)}
    run = parse_params({"default_run": "small", "runs": {"small": {"model": {"num_hidden_layers": 2}}}}).runs["small"]
    assert {f"model.{name}" for name in own} == set(FAMILY.linear_layers(base_files.embedded_sizes(run, FAMILY)))


BLOCKS = {"rollout": {"block_length": 4}, "evaluate": {"block_length": 4}}


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


def test_a_checkpoint_of_another_family(tmp_path, checkpoint):
    path = families.write_chat(tmp_path, families.SDAR)
    assert problems(chat(path, model={"name": "sdar"}, **BLOCKS)) == []
    (found,) = problems(chat(path, model={"name": "sdar", "block_length": 16}, **BLOCKS))[:1]
    assert found == "rollout.block_length must be 16, the blocks that the model sees, not 4"
    with pytest.raises(PipelineError, match=r"holds the architecture 'sdar', not 'Dream': set model\.name to sdar"):
        problems(chat(path, model={"name": "dream"}))
    with pytest.raises(PipelineError, match=r"model\.block_length 4: in llada every position sees every other"):
        problems(chat(checkpoint, model={"block_length": 4}))


def test_a_checkpoint_is_checked_by_its_headers(checkpoint, monkeypatch):
    """All of it, without reading a tensor or the Hub."""
    monkeypatch.setattr(torch, "load", None)
    sections = {"train": {"adapter": {}}, "evaluate": {"lengths": [64, 512]}, "rollout": {"length": 1000}}
    assert problems(chat(checkpoint, **sections)) == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rollout": {"length": 1024}}, "rollout.length 1024: the model of base.path takes 1024 tokens, with those of"),
        ({"rollout": {"block_length": 2000}}, "rollout.block_length 2000: the model of base.path takes 1024"),
        ({"evaluate": {"lengths": [64, 4096]}}, "evaluate.lengths 4096: the model of base.path takes 1024"),
        ({"evaluate": {"block_length": 1024}}, "evaluate.block_length 1024: the model of base.path takes 1024"),
        ({"train": {"adapter": {"targets": ["layers.1.mlp.up_proj"]}}}, "no linear layer 'layers.1.mlp.up_proj'"),
    ],
)
def test_settings_against_a_checkpoint(checkpoint, sections, message):
    (found,) = problems(chat(checkpoint, **sections))
    assert message in found


def truncated(path: Path) -> None:
    file = path / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def without_template(path: Path) -> None:
    settings = json.loads((path / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "is not a model directory: cannot read its config.json"),
        (lambda path: (path / "tokenizer.json").unlink(), "base.path: .*tokenizer.json is missing"),
        (
            lambda path: (path / "tokenizer_config.json").unlink(),
            "has no chat template: tokenizer_config.json: No such",
        ),
        (without_template, "has no chat template: tokenizer_config.json: it has none"),
        (truncated, "cannot load the weights in '.*': model-00001-of-00002.safetensors is damaged"),
        (lambda path: (path / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors is miss"),
    ],
)
def test_files_of_a_checkpoint(copied, damage, message):
    damage(copied)
    with pytest.raises(PipelineError, match=message):
        problems(chat(copied))


def test_an_imported_base_stands_for_a_checkpoint_that_is_gone(checkpoint):
    assert problems(chat("gone/checkpoint"), imported=checkpoint) == []
    with pytest.raises(PipelineError, match="'no/such/place' is neither a directory nor a model on the Hub"):
        problems(chat("no/such/place"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (errors.RepositoryNotFoundError, "base.path: 'GSAI-ML/LLaDa' is neither a directory nor a model on the Hub"),
        (errors.EntryNotFoundError, "base.path: 'GSAI-ML/LLaDa' is neither .*: it has no config.json"),
        (ConnectionError, ""),
        (errors.OfflineModeIsEnabled, ""),
    ],
)
def test_names_on_the_hub(monkeypatch, answer, message):
    """A name that the Hub does not know is refused; without a network nothing is said."""

    def asked(url: str, timeout: float) -> None:
        assert url.endswith("/GSAI-ML/LLaDa/resolve/main/config.json") and timeout <= 5
        raise answer.__new__(answer)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", asked)
    if message:
        with pytest.raises(PipelineError, match=message):
            problems(chat("GSAI-ML/LLaDa"))
    else:
        assert problems(chat("GSAI-ML/LLaDa")) == []


def test_what_follows_a_prompt():
    """For rule `base`: the longest answer of each prefill in the runs that share it."""
    first = chat("x", rollout={"prefill": "<r>", "length": 80}, evaluate={"prefill": "<r>", "lengths": [64, 512]})
    params = parse_params({"default_run": "a", "runs": {"a": first, "b": {"extends": "a", "rollout": {"length": 90}}}})
    found = json.loads(rules.prompt_limits("a", params.runs, {"a": "a", "b": "a"}))
    assert found == {"train": [["", 64], ["<r>", 90]], "held_out": [["", 64], ["<r>", 512]]}


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


def test_items_that_take_too_long_are_left_to_the_rules(workflow, checkpoint, monkeypatch, capsys):
    """The process ends with all that it has started."""
    monkeypatch.chdir(workflow.directory)
    monkeypatch.setattr(item_check, "SECONDS", 0.5)
    with_late_row(workflow, checkpoint)
    params, before = parse_params(workflow.params), psutil.Process().children()
    item_check.check_items("small", params.runs, {"small": "small"}, checkpoint)
    assert "note: small: its items took longer than 0.5 s; rule base checks them" in capsys.readouterr().err
    assert psutil.Process().children() == before


def test_only_runs_that_are_needed_are_checked(workflow):
    """What a run leaves behind is said once, and the nearest names of a target that is none."""
    workflow.params["runs"] |= {"wrong": {"train": {"batch_size": 33}}, "rwr": {"algorithm": {"name": "raft"}}}
    workflow.params["hardware"]["processes"] = 2
    output = workflow("--dry-run", "small", "rwr", "--quiet", "rules")
    assert output.count("note: rwr: algorithm.largest_step of defaults or of the extended run is left out: ") == 1
    output = workflow("--dry-run", "smal", ok=False)
    assert "error: 'smal' is neither a run nor a suite: did you mean 'small'? known: rwr, small, wrong" in output


def test_what_a_replaced_task_has_left_behind_is_not_said(capsys):
    runs = {"parent": {"task": {"name": "countdown"}}, "child": {"extends": "parent", "task": {"name": "sudoku"}}}
    raw = {"default_run": "child", "defaults": {"task": {"name": "sudoku", "hard_items": 3}}, "runs": runs}
    check = preflight.Preflight(parse_params(raw), {name: name for name in runs}, active=True)
    check("child")
    assert capsys.readouterr().err == ""
    check("parent")
    assert capsys.readouterr().err.startswith(
        "note: parent: task.hard_items of defaults or of the extended run is left"
    )


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
    named = {name: (run, shape_of(run)) for name, run in params.runs.items() if run.base.path}
    known = {name: (run, shape) for name, (run, shape) in named.items() if shape}
    assert len(known) == 27
    for name, (run, shape) in known.items():
        assert not list(preflight.too_large(run, params.hardware.of(name, run.model.name), shape)), name


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, ""),
        ({"base": {"data": "none.txt"}}, "base.data: none.txt is missing; 'task' is the task's own split"),
        (
            {"train": {"adapter": {}}},
            "train.adapter.targets: the model has no linear layer 'q_proj': known: dense, key, query, value",
        ),
        ({"train": {"adapter": {"targets": ["query", "output.dense"]}}}, ""),
        (
            {"base": {"data": "task", "adapter": {"targets": ["lm_head.dense"]}}},
            "base.adapter.targets: the model has no linear layer 'lm_head.dense': did you mean 'dense'?",
        ),
        ({"base": {"data": "task", "batch_size": 3}}, "base.batch_size 3 is not a multiple of"),
    ],
)
def test_a_masked_language_model(tmp_path, monkeypatch, sections, message):
    monkeypatch.syspath_prepend(ROOT)
    encoders.write(tmp_path / "base", "roberta")
    base = {"path": str(tmp_path / "base"), **sections.get("base", {})}
    run = {"task": {"name": "examples.words"}, "model": {"name": "masked_lm"}, **sections, "base": base}
    found = problems(run, processes=2)
    assert message in found[0] if message else not found
    (tmp_path / "base" / "config.json").write_text("{}")
    with pytest.raises(PipelineError, match="holds the architecture 'None', not one of bert"):
        problems(run)


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
