"""A LoRA run gives the same bits in another clone, whose commit is another, and records the law that it sampled."""

import json
import subprocess

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline.models.llada import PLUGIN
from pipeline.models.policy_directory import load_policy
from pipeline.samplers.ancestral import Trajectories, path_log_prob
from pipeline.storage import parquet
from tests.small_workflow import Workflow

FILES = [f"round_00{number}/{name}" for number in (1, 2) for name in ("policy/adapter_model", "optimizer")]
ROLLOUTS, REFERENCES = "round_002/rollouts/00.parquet", "round_002/references/00.parquet"


@pytest.fixture(scope="module")
def clones(tmp_path_factory) -> list[Workflow]:
    """A finished run with adapters of bfloat16 and dropout in two repositories, of which one has an empty commit."""
    made = []
    for commits in (1, 2):
        clone = Workflow(tmp_path_factory.mktemp("clone"))
        for command in ["init"], *[["commit", "--allow-empty", "-m", "empty"]] * commits:
            identity = ["-c", "user.name=a", "-c", "user.email=a@a"]
            subprocess.run(["git", *identity, *command, "-q"], cwd=clone.directory, check=True)
        clone.params["defaults"]["model"]["dtype"] = "bfloat16"
        clone.params["defaults"]["train"] = {"updates": 20, "batch_size": 32, "adapter": {"rank": 4}}
        clone.params["defaults"]["rollout"]["shards"] = 1
        clone.params["defaults"]["evaluate"]["every"] = 2
        clone()
        made.append(clone)
    return made


def test_the_same_bits(clones):
    metadata = [pq.read_schema(clone.run_directory / ROLLOUTS).metadata for clone in clones]
    commits = [json.loads(entries[b"provenance"])["git"] for entries in metadata]
    assert commits[0] != commits[1] and "unknown" not in commits
    for file in FILES:
        one, other = (load_file(clone.run_directory / f"{file}.safetensors") for clone in clones)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert clones[0].metrics() == clones[1].metrics()


def test_the_recorded_law_is_the_sampled_one(clones):
    """Of round 2: p^u of the rollouts is the merged policy's, p^base of the references the plain base's."""
    run = clones[0].run_directory
    rollouts = parquet.read([run / ROLLOUTS], parquet.ROLLOUTS)
    references = parquet.read([run / REFERENCES], parquet.REFERENCES)
    prompt, tokens, step = (
        torch.from_numpy(parquet.matrix(rollouts, name)).long() for name in ("prompt_tokens", "tokens", "unmask_step")
    )
    recorded = torch.from_numpy(parquet.matrix(rollouts, "log_prob"))

    def replayed(policy: str, *, merged: bool = True) -> torch.Tensor:
        model, _, mask_id = load_policy(run / policy, PLUGIN, merged=merged)
        return path_log_prob(model, prompt, Trajectories(tokens, step, recorded), mask_id=mask_id)

    apart = (replayed("round_001/policy", merged=False) - recorded).abs().mean()
    assert (replayed("round_001/policy") - recorded).abs().mean() < apart / 3
    order = [f"{row['state_id']}-{row['sample_id']}" for row in rollouts.select(["state_id", "sample_id"]).to_pylist()]
    place = {f"{row['state_id']}-{row['sample_id']}": number for number, row in enumerate(references.to_pylist())}
    base = torch.from_numpy(parquet.matrix(references, "base_log_prob"))[[place[key] for key in order]]
    assert (replayed("round_000/policy") - base).abs().mean() < apart / 3
