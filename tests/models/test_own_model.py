"""The model of examples/convolutions.py: what docs/models.md asks of a model of one's own, and a run with it."""

import pytest
import torch

from examples.convolutions import PLUGIN
from pipeline.errors import PipelineError
from pipeline.models.policy_directory import load_policy
from pipeline.samplers.posterior import log_posterior
from pipeline.settings.sections import ModelSection
from pipeline.storage import parquet
from pipeline.text.tokenizer import PADDING, character_tokenizer
from tests.conftest import ROOT

MASK = 8


def test_padding_changes_nothing():
    model = PLUGIN.create(ModelSection(hidden_size=16, num_hidden_layers=3), 9, MASK, 5)
    generator = torch.Generator().manual_seed(0)
    prompt, answer = (torch.randint(9, (4, length), generator=generator) for length in (3, 5))
    padded = torch.cat([torch.full((4, 2), PADDING), prompt], 1), torch.cat([answer, torch.full((4, 3), PADDING)], 1)
    alone = log_posterior(model, prompt, answer, answer == MASK)
    torch.testing.assert_close(log_posterior(model, *padded, padded[1] == MASK), alone)
    assert (alone[:, MASK] == -torch.inf).all()


def test_a_run(workflow):
    (workflow.directory / "examples").symlink_to(ROOT / "examples")
    model = {"name": "examples.convolutions", "hidden_size": 32, "num_hidden_layers": 3}
    workflow.params["defaults"] |= {"rounds": 1, "model": model}
    workflow()
    policy, _, mask = load_policy(workflow.run_directory / "round_001" / "policy", PLUGIN)
    assert (type(policy).__name__, policy.sizes["mask_id"]) == ("Convolutions", mask)
    rows = workflow.run_directory / "round_001"
    recorded, replayed = (
        parquet.matrix(parquet.read(sorted((rows / folder).iterdir()), schema), column)
        for folder, schema, column in (
            ("rollouts", parquet.ROLLOUTS, "log_prob"),
            ("references", parquet.REFERENCES, "base_log_prob"),
        )
    )
    torch.testing.assert_close(torch.from_numpy(replayed), torch.from_numpy(recorded), atol=1e-4, rtol=0)


def test_a_mask_that_is_not_the_tokenizers_is_refused(tmp_path):
    """Else another token would be banned, and [MASK] drawn as an answer."""
    PLUGIN.save(PLUGIN.create(ModelSection(hidden_size=16), 9, MASK - 3, 5), tmp_path)
    character_tokenizer("abcdefgh").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(PipelineError, match=r"mask_id is 5 in config.json, but \[MASK\] is token 8"):
        load_policy(tmp_path, PLUGIN)


def test_what_it_lacks_stops_a_dry_run(workflow):
    """Before anything is drawn, where it would stop the training of round 1 or an evaluation."""
    (workflow.directory / "examples").symlink_to(ROOT / "examples")
    model, cached = {"name": "examples.convolutions"}, {"block_length": 4, "cache": "block"}
    for changes, key in (({"train": {"adapter": {}}}, "train.adapter"), ({"evaluate": cached}, "evaluate.cache")):
        workflow.params["runs"] = {"small": {"model": model, **changes}}
        assert f"error: small: {key}: this model " in workflow("--dry-run", ok=False)
    workflow.params["runs"] = {"small": {"model": model}}
    workflow("--dry-run")
