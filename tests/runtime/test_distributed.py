"""Full fine-tuning and LoRA with dropout give the same result in one process, on two replicas (DDP) and on two shards
(FSDP2)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.models import FAMILIES
from pipeline.models.llada import PLUGIN
from pipeline.models.policy_directory import cast_weights, save_policy
from pipeline.training.adamw import MASTER
from tests.conftest import ROOT
from tests.conftest import llada as tiny
from tests.runtime import sharded


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The results of two processes with DDP and with FSDP2, from one base."""
    directory = tmp_path_factory.mktemp("sharded")
    for kind in sharded.KINDS:
        base = cast_weights(tiny(9, 8, initializer_range=0.2), sharded.settings(kind)[0])
        save_policy(directory / sharded.base_of(kind), base, sharded.TOKENIZER, PLUGIN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    torchrun += ["--rdzv-endpoint", "localhost:0", "-m", "tests.runtime.sharded", "two"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(torchrun, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return directory


def test_every_family_on_two_processes(directory):
    """The gradients are those of one process, to rounding."""
    found = json.loads((directory / "two-families.json").read_text())
    assert found.keys() == {f"{name}-{way}" for name in FAMILIES for way in ("ddp", "shards")} | {"lists-shards"}
    assert all(value < 1e-5 for value in found.values()), found


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_processes_and_shards_change_nothing(directory, kind, monkeypatch):
    monkeypatch.chdir(directory)
    alone = sharded.train(kind, "none", directory / f"one-{kind}")
    losses = json.loads((directory / "two.json").read_text())
    assert len(alone) == 8
    weights = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    for sharding in ("none", "full"):
        assert losses[f"{kind} {sharding}"] == pytest.approx(alone, abs=1e-4)
        for name in (f"policy/{weights}", "optimizer.safetensors"):
            one = load_file(directory / f"one-{kind}" / "round_2" / name)
            two = load_file(directory / f"two-{kind}-{sharding}" / "round_2" / name)
            torch.testing.assert_close(two, one, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["bfloat16", "lora-bfloat16"])
def test_bfloat16_on_two_processes_differs_by_rounding(directory, kind, monkeypatch):
    """Gradients are summed in bfloat16: the fp32 masters differ by a fraction of what a round moves them."""
    monkeypatch.chdir(directory)
    alone = sharded.train(kind, "none", directory / f"one-{kind}")
    losses = json.loads((directory / "two.json").read_text())
    before, one = (masters(directory / f"one-{kind}" / f"round_{number}") for number in "12")
    assert one.dtype == torch.float32
    for sharding in ("none", "full"):
        assert losses[f"{kind} {sharding}"] == pytest.approx(alone, rel=0.02)
        two = masters(directory / f"two-{kind}-{sharding}" / "round_2")
        assert (two - one).norm() < 0.2 * (one - before).norm()


def masters(round_: Path) -> torch.Tensor:
    """The fp32 master copies after a round, in one vector."""
    state = load_file(round_ / "optimizer.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state) if name.startswith(MASTER)])


def test_the_base_is_untouched_and_named(directory):
    """Adapters that were trained in shards load again, on the base that they name, whose weights are unchanged."""
    policy = PLUGIN.load(directory / "two-lora-full" / "round_2" / "policy")
    assert policy.adapter_home == (directory / "base-float32").resolve()
    base = PLUGIN.load(directory / "base-float32").state_dict()
    made = cast_weights(tiny(9, 8, initializer_range=0.2), "float32").state_dict()
    assert base.keys() == made.keys() and all(torch.equal(base[name], value) for name, value in made.items())
