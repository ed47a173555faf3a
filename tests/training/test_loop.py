"""A training that is killed, or repeated, gives the same weights to the bit."""

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.models import adapters, masked_lm
from pipeline.models.llada import PLUGIN
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.random_streams import Stream
from pipeline.settings.sections import Adapter, Train
from pipeline.text.tokenizer import PADDING
from pipeline.training.adamw import MOMENTS, AdamW, load_optimizer_state
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import fit
from pipeline.training.replay_buffer import Batch, Replay
from tests.conftest import ROOT, llada
from tests.models import encoders
from tests.small_workflow import Stage

KILLED = """
import os, runpy, sys
from pipeline.training.checkpoint import Checkpoint
save = Checkpoint.save
def save_and_die(checkpoint, *state):
    checkpoint.interval = 0
    save(checkpoint, *state)
    if len(checkpoint.losses) == 5:
        os.kill(os.getpid(), 9)
Checkpoint.save = save_and_die
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def killed(finished, tmp_path_factory) -> Stage:
    """Training of the last round, killed after update 5 of 8."""
    stage = Stage(tmp_path_factory.mktemp("killed"), finished.run_directory)
    command = [sys.executable, "-c", KILLED, *stage.command("train"), "--code", "old"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=stage.run.parent, env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in stage.out.iterdir()] == ["train.checkpoint"]
    return stage


def go_on(killed: Stage, directory: Path, code: str) -> Path:
    """Train again with a copy of what it has left; returns where its outputs are."""
    stage = Stage(directory, killed.run)
    shutil.copytree(killed.out, stage.out)
    stage([*stage.command("train"), "--code", code])
    assert not (stage.out / "train.checkpoint").exists()
    return stage.out


def test_killed_after_a_checkpoint(finished, killed, tmp_path, capsys):
    """Training does the remaining 3 updates and writes the very bytes of an uninterrupted one."""
    out = go_on(killed, tmp_path, "old")
    said = capsys.readouterr().err
    assert " 5/8 " in said and " 0/8 " not in said
    for name in ("policy/model.safetensors", "optimizer.safetensors", "train.json"):
        assert (out / name).read_bytes() == (finished.run_directory / "round_002" / name).read_bytes()


def test_code_that_was_edited_does_not_go_on_with_what_the_old_has_left(killed, tmp_path, capsys):
    go_on(killed, tmp_path, "new")
    assert " 0/8 " in capsys.readouterr().err


def with_dropout(
    tmp_path: Path,
    key: str,
    seed: int = 0,
    round_: int = 1,
    parts: int = 1,
    *,
    recompute: bool = False,
    encoder: bool = False,
) -> dict[str, torch.Tensor]:
    """Adapters after three updates with dropout; `key` stands for the digest of one copy of the inputs."""
    policy, mask = (masked_lm.load(encoders.write(tmp_path, "bert")), 9) if encoder else (llada(9, 8), 8)
    targets = {"targets": ("query", "value")} if encoder else {}
    adapters.train(policy, Adapter(rank=2, alpha=4, dropout=0.5, **targets), tmp_path / "base", tmp_path / "out")
    rows = torch.randint(mask - 5, mask, (8, 6), generator=torch.Generator().manual_seed(0))
    prompt, answer = rows.split([2, 4], dim=1)
    prompt[::3, 0], answer[1::2, 2:] = PADDING, PADDING
    settings = Train(batch_size=4, gradient_accumulation_steps=parts)
    if recompute:
        PLUGIN.recompute(policy)
    fit(
        policy,
        AdamW(policy, settings),
        Replay.of_texts(prompt, answer, mask).batches(3, 4, 0, Stream.REPLAY, 1),
        weighted_cross_entropy,
        lambda update: 1e-2,
        settings,
        Checkpoint(tmp_path / "checkpoint", key),
        seed=seed,
        round_=round_,
        updates=3,
        title="dropout",
    )
    return {name: value.detach().clone() for name, value in adapters.own_parameters(policy)}


def test_dropout_depends_on_seed_and_round_and_on_no_file(tmp_path):
    first, same = with_dropout(tmp_path, "one copy"), with_dropout(tmp_path, "another copy")
    assert first.keys() == same.keys() and all(torch.equal(first[name], same[name]) for name in first)
    for other in (with_dropout(tmp_path, "one copy", seed=1), with_dropout(tmp_path, "one copy", round_=2)):
        assert not all(torch.equal(first[name], other[name]) for name in first)


def test_dropout_belongs_to_the_rows(tmp_path):
    """Gradient accumulation and checkpointing give the same result to rounding, also where rows differ in length;
    test_distributed has two processes."""
    whole = with_dropout(tmp_path, "whole")
    for other in (with_dropout(tmp_path, "parts", parts=4), with_dropout(tmp_path, "again", recompute=True)):
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=1e-4)
    whole = with_dropout(tmp_path, "whole", encoder=True)
    parts = with_dropout(tmp_path, "parts", parts=4, encoder=True)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("scale", "found"), [(1e20, r"1e\+20, with a gradient of norm inf"), (-math.inf, "is -inf")])
def test_a_loss_or_gradient_that_overflows_stops_training(tmp_path, scale, found):
    """The squares of gradients of 1e20 overflow; clipping by a norm that is infinite would make them 0 unnoticed."""
    policy, settings = torch.nn.Linear(8, 8), Train(batch_size=1)
    texts = torch.zeros(1, 2, dtype=torch.long).split(1, dim=1)

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return scale * (model.weight / model.weight.detach()).mean()[None]

    with pytest.raises(PipelineError, match=found):
        fit(
            policy,
            AdamW(policy, settings),
            Replay.of_texts(*texts, 8).batches(1, 1, 0, Stream.REPLAY, 1),
            loss,
            lambda update: 1e-2,
            settings,
            Checkpoint(tmp_path / "checkpoint", "key"),
            seed=0,
            round_=1,
            updates=1,
            title="overflow",
        )


def test_optimiser_state_of_another_policy(tmp_path, sections):
    policy = llada(9, 8)
    tensors = {f"{moment}.{name}": torch.zeros(1) for name, _ in policy.named_parameters() for moment in MOMENTS}
    save_file(tensors, tmp_path / "optimizer.safetensors")
    with pytest.raises(PipelineError, match=r"optimizer.safetensors does not belong to this policy"):
        load_optimizer_state(tmp_path / "optimizer.safetensors", AdamW(policy, sections.train))
