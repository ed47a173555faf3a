"""Greedy decoding against a plain implementation of the published procedure, one row at a time."""

import pytest
import torch

from pipeline.samplers.low_confidence import decode
from tests.conftest import llada


@pytest.mark.parametrize("block_length", [None, 3])
@pytest.mark.parametrize("tokens_per_step", [1, 2])
def test_equals_the_published_procedure(tokens_per_step, block_length):
    model, mask, length = llada(9, 8), 8, 7
    prompt = torch.randint(8, (5, 4), generator=torch.Generator().manual_seed(0))
    start = torch.full((5, length), mask)
    start[3, :4] = torch.tensor([1, 2, mask, 3])  # partly revealed
    start[4] = torch.tensor([0, 1, 2, mask, 3, mask, 4])
    batched = decode(model, prompt, start, mask_id=mask, tokens_per_step=tokens_per_step, block_length=block_length)
    for row, empty, got in zip(prompt, start, batched, strict=True):
        x = torch.cat([row, empty])
        while (x == mask).any():
            with torch.no_grad():
                p = model(input_ids=x[None]).logits[0].softmax(dim=1)
            confidence, proposal = p.max(dim=1)
            block, first = torch.arange(len(x)) - 4, int((x == mask).nonzero()[0]) - 4
            here = (x == mask) & (block // (block_length or length) == first // (block_length or length))
            confidence[~here] = -1
            keep = confidence.topk(min(tokens_per_step, int(here.sum()))).indices
            x[keep] = proposal[keep]
        assert torch.equal(x[4:], got)
