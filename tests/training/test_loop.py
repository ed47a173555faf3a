"""A training that is killed, or repeated, gives the same weights to the bit."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.models import adapters
from pipeline.models.llada import PLUGIN
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.random_streams import Stream
from pipeline.settings.sections import Adapter, Train
from pipeline.training.adamw import MOMENTS, AdamW, load_optimizer_state
from pipeline.training.loop import Progress, fit
from pipeline.training.replay_buffer import Replay
from tests.conftest import Stage, llada

KILLED = """
import os, runpy, sys
from pipeline.training.loop import Progress
save = Progress.save
def save_and_die(progress, *state):
    progress.interval = 0
    save(progress, *state)
    if len(progress.losses) == 5:
        os.kill(os.getpid(), 9)
Progress.save = save_and_die
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def test_killed_after_a_checkpoint(finished, tmp_path):
    """Killed after update 5 of 8, training does the remaining 3 and writes the very bytes of an uninterrupted one."""
    stage = Stage(tmp_path, finished.run_directory)
    assert stage(["-c", KILLED, *stage.command("train")]).returncode == -signal.SIGKILL
    assert [path.name for path in stage.out.iterdir()] == ["train.progress"]
    done = stage(stage.command("train"))
    assert done.returncode == 0, done.stderr
    assert " 5/8 " in done.stderr and " 0/8 " not in done.stderr
    whole = Stage(tmp_path / "whole", finished.run_directory)
    assert whole(whole.command("train")).returncode == 0
    for name in ("policy/model.safetensors", "optimizer.safetensors", "train.json"):
        assert (stage.out / name).read_bytes() == (whole.out / name).read_bytes()
    assert not (stage.out / "train.progress").exists()


def test_code_that_was_edited_does_not_go_on_with_what_the_old_has_left(finished, tmp_path):
    stage = Stage(tmp_path, finished.run_directory)
    assert stage(["-c", KILLED, *stage.command("train"), "--code", "old"]).returncode == -signal.SIGKILL
    done = stage([*stage.command("train"), "--code", "new"])
    assert done.returncode == 0 and " 0/8 " in done.stderr, done.stderr


def with_dropout(
    tmp_path: Path, key: str, seed: int = 0, round_: int = 1, parts: int = 1, *, recompute: bool = False
) -> dict[str, torch.Tensor]:
    """Adapters after three updates with dropout; `key` stands for the digest of one copy of the inputs."""
    policy = llada(9, 8)
    adapters.train(policy, Adapter(rank=2, alpha=4, dropout=0.5), tmp_path / "base", tmp_path / "out")
    texts = torch.randint(8, (8, 6), generator=torch.Generator().manual_seed(0)).split([2, 4], dim=1)
    settings = Train(batch_size=4, gradient_accumulation_steps=parts)
    if recompute:
        PLUGIN.recompute(policy)
    fit(
        policy,
        AdamW(policy, settings),
        Replay.of_texts(*texts, 8).batches(3, 4, 0, Stream.REPLAY, 1),
        lambda model, batch: weighted_cross_entropy(model, batch, 8),
        lambda update: 1e-2,
        settings,
        Progress(tmp_path / "progress", key),
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
    """Gradient accumulation and checkpointing give the same result to rounding; test_distributed has two processes."""
    whole = with_dropout(tmp_path, "whole")
    for other in (with_dropout(tmp_path, "parts", parts=4), with_dropout(tmp_path, "again", recompute=True)):
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=1e-4)


def test_optimiser_state_of_another_policy(tmp_path, sections):
    policy = llada(9, 8)
    tensors = {f"{moment}.{name}": torch.zeros(1) for name, _ in policy.named_parameters() for moment in MOMENTS}
    save_file(tensors, tmp_path / "optimizer.safetensors")
    with pytest.raises(PipelineError, match=r"optimizer.safetensors does not belong to this policy"):
        load_optimizer_state(tmp_path / "optimizer.safetensors", AdamW(policy, sections.train))
