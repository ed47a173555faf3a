"""Batches of prompts that differ in length: the padding left of the shorter ones changes no loss."""

import pyarrow as pa
import pytest
import torch

from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.random_streams import Stream
from pipeline.settings.sections import Rollout
from pipeline.storage.parquet import TARGETS
from pipeline.text.tokenizer import PADDING
from pipeline.training.replay_buffer import Replay
from tests.conftest import llada

MASK, LENGTH, PROMPTS = 8, 4, (3, 7, 5, 3)


def targets() -> pa.Table:
    """Two completions of each of four prompts, of other lengths."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for state, size in enumerate(PROMPTS):
        prompt = torch.randint(8, (size,), generator=generator).tolist()
        for sample in range(2):
            row = dict.fromkeys(TARGETS.names, 0)
            row |= {"state_id": state, "sample_id": sample, "weight": 1.0, "prompt_tokens": prompt,
                    "start": [MASK] * LENGTH, "tokens": torch.randint(8, (LENGTH,), generator=generator).tolist(),
                    "unmask_step": list(range(LENGTH)), "log_prob": [0.0] * LENGTH}  # fmt: skip
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=TARGETS)


@pytest.mark.parametrize("states", ["remasked_completions", "starting_states", "path_states"])
def test_padding_changes_no_loss(states):
    policy = llada(9, MASK)
    replay = Replay.of_targets(targets(), Rollout(completions=2), MASK, states)
    (batch,) = replay.batches(1, 8, 0, Stream.REPLAY, 1)
    assert (batch.prompt == PADDING).any()
    padding = (batch.prompt == PADDING).sum(dim=1).tolist()
    assert padding == sorted(padding, reverse=True)
    together = weighted_cross_entropy(policy, batch, MASK)
    for row in range(8):
        alone = batch.rows(slice(row, row + 1))
        assert not (alone.prompt == PADDING).any() and alone.noise.shape[1] == alone.prompt.shape[1] + LENGTH + 1
        torch.testing.assert_close(
            weighted_cross_entropy(policy, alone, MASK), together[row : row + 1], atol=1e-5, rtol=1e-5
        )
