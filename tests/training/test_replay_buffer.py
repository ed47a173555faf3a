"""Batches of prompts and answers that differ in length: the padding beside the shorter ones changes no loss."""

import pyarrow as pa
import pytest
import torch

from pipeline.ctmc.masking import REVEALED
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.random_streams import Stream
from pipeline.settings.sections import Rollout
from pipeline.storage.parquet import TARGETS
from pipeline.text.tokenizer import PADDING
from pipeline.training.replay_buffer import Replay
from tests.conftest import llada

MASK, LENGTH, PROMPTS = 8, 4, (3, 7, 5, 3)
STARTS = {
    "empty": [[MASK] * LENGTH] * 4,
    "partly revealed": [[MASK, 1, MASK, MASK], [0, MASK], [MASK, MASK, 3], [MASK, 2, 5, MASK]],
}


def targets(starts: list[list[int]]) -> pa.Table:
    """Two completions of each of four prompts, of other lengths."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for state, size in enumerate(PROMPTS):
        prompt = torch.randint(8, (size,), generator=generator).tolist()
        for sample in range(2):
            row, start = dict.fromkeys(TARGETS.names, 0), torch.tensor(starts[state])
            tokens = torch.where(start == MASK, torch.randint(8, (LENGTH,), generator=generator)[: len(start)], start)
            step = torch.where(start == MASK, (start == MASK).cumsum(0) - 1, REVEALED)
            row |= {"state_id": state, "sample_id": sample, "weight": 1.0, "prompt_tokens": prompt,
                    "start": start.tolist(), "tokens": tokens.tolist(), "unmask_step": step.tolist(),
                    "log_prob": [0.0] * len(start)}  # fmt: skip
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=TARGETS)


@pytest.mark.parametrize("states", ["remasked_completions", "starting_states", "path_states"])
@pytest.mark.parametrize("starts", STARTS)
def test_padding_changes_no_loss(states, starts):
    policy = llada(9, MASK)
    replay = Replay.of_targets(targets(STARTS[starts]), Rollout(completions=2), MASK, states)
    (batch,) = replay.batches(1, 8, 0, Stream.REPLAY, 1)
    assert (batch.prompt == PADDING).any() and (batch.state == PADDING).any() == (starts != "empty")
    padding = [(part == PADDING).sum(dim=1) for part in (batch.prompt, batch.state)]
    padding = sum(padding).tolist()
    assert padding == sorted(padding, reverse=True)
    together = weighted_cross_entropy(policy, batch)
    for row in range(8):
        alone = batch.rows(slice(row, row + 1))
        prompt, answer = alone.prompt.shape[1], alone.state.shape[1]
        assert not (alone.prompt == PADDING).any() and not (alone.tokens == PADDING).any()
        for mine, place in ((alone.noise[0, :prompt], slice(batch.prompt.shape[1] - prompt, batch.prompt.shape[1])),
                            (alone.noise[0, prompt:-1], slice(batch.prompt.shape[1], batch.prompt.shape[1] + answer)),
                            (alone.noise[0, -1:], slice(-1, None))):  # fmt: skip
            assert torch.equal(mine, batch.noise[row, place])
        torch.testing.assert_close(weighted_cross_entropy(policy, alone), together[row : row + 1], atol=1e-5, rtol=1e-5)


def test_complementary_masks_show_prompts_of_every_length():
    """Rows are sorted by length after it is decided which completions a batch has, not before."""
    size = 16
    replay = Replay.of_targets(targets(STARTS["empty"]), Rollout(completions=2), MASK, "complementary_masks")
    seen = torch.zeros(max(PROMPTS) + 1)
    for batch in replay.batches(40, size, 0, Stream.REPLAY, 1):
        lengths = (batch.prompt != PADDING).sum(dim=1)
        assert len(lengths) == size and lengths.tolist() == sorted(lengths.tolist())
        seen += torch.bincount(lengths, minlength=len(seen))
    assert seen[[3, 5, 7]].tolist() == pytest.approx([20 * size, 10 * size, 10 * size], rel=0.2)
