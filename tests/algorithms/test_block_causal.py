"""DAM on a model that sees block by block, whose chain goes to p*, with and without a cache alike.

SDAR with answers of four tokens of two values; its blocks of two are counted from the prompt of one token, so that the
answer's are [0], [1, 2], [3] and there are two orders of revealing.
"""

import copy
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.algorithms import dam
from pipeline.ctmc.exact import kl
from pipeline.models.transformer import restrict
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.runtime.random_streams import Stream
from pipeline.samplers.ancestral import Trajectories, path_log_prob
from pipeline.storage import parquet
from tests.algorithms.test_block_cache import ANSWERS, BLOCK, MASK, PROMPT, VALUES, distances, settings, targets, tilted
from tests.conftest import of_family

UPDATES = 100
ORDERS = torch.tensor([[0, 1, 2, 3], [0, 2, 1, 3]])


def model(seed: int, initializer_range: float) -> torch.nn.Module:
    network = of_family("sdar", VALUES + 2, MASK, seed, initializer_range=initializer_range, block_length=BLOCK)
    restrict(network, set(range(VALUES)))
    return network


def law(policy: torch.nn.Module, cached_blocks: int | None) -> torch.Tensor:
    """log p(X_1) of each answer, by its two paths."""
    tokens, steps = ANSWERS.repeat_interleave(2, 0), ORDERS.repeat(len(ANSWERS), 1)
    paths, prompt = Trajectories(tokens, steps, torch.zeros(tokens.shape)), torch.full((len(tokens), 1), PROMPT)
    log_prob = path_log_prob(policy, prompt, paths, mask_id=MASK, cached_blocks=cached_blocks).double().sum(dim=1)
    found = log_prob.view(len(ANSWERS), 2).logsumexp(dim=1) - np.log(2)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-5)
    return found


@pytest.mark.facts
def test_the_chain_goes_to_the_optimum():
    """From a policy that has nothing to do with the base, in two rounds."""
    base, policy, run = model(0, 0.2), model(8, 0.3), settings("direct")
    optimum = tilted(law(base, None))
    torch.testing.assert_close(law(base, BLOCK), law(base, None), rtol=0, atol=1e-5)
    assert float(kl(optimum, law(policy, None))) > 0.3
    for number in (1, 2):
        found = targets(copy.deepcopy(policy), base, run, number)
        assert distances(found, optimum).abs().max() < 5
        table = pa.table({name: found.columns[name] for name in parquet.TARGETS.names}, schema=parquet.TARGETS)
        replay = replace(dam.replay(table, run.rollout, run.algorithm, MASK), blocks_from_prompt=True)
        optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, UPDATES)
        for batch in replay.batches(UPDATES, 256, 0, Stream.REPLAY, number):
            optimizer.zero_grad()
            weighted_cross_entropy(policy, batch).mean().backward()
            optimizer.step()
            schedule.step()
    assert float(kl(optimum, law(policy, None))) < 2e-2
