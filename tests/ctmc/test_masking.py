"""x_t given x_1: the law of the hidden set, and the states of a stored trajectory."""

from collections import Counter
from itertools import combinations

import torch

from pipeline.ctmc.masking import REVEALED, remask, state_before, stratified_counts


def test_state_before_walks_from_start_to_x_1():
    tokens, unmask_step, mask = torch.tensor([[5, 6, 7]]), torch.tensor([[1, REVEALED, 0]]), 9
    states = [state_before(tokens, unmask_step, step, mask).tolist()[0] for step in range(3)]
    assert states == [[9, 6, 9], [9, 6, 7], [5, 6, 7]]


def test_hidden_sets_follow_the_bernoulli_law_with_t_integrated_out():
    """P(M) = ∫ (1-t)^|M| t^(L-|M|) dt, given |M| ≥ 1, is 1/L over sizes and uniform within a size."""
    length, batch = 3, 60_000
    generator = torch.Generator().manual_seed(0)
    counts = stratified_counts(batch, length, generator)
    hidden = remask(counts, torch.rand(batch, length, generator=generator))
    seen = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in hidden)
    for size in range(1, length + 1):
        subsets = list(combinations(range(length), size))
        for subset in subsets:
            expected = 1 / length / len(subsets)
            error = (expected * (1 - expected) / batch) ** 0.5
            assert abs(seen[subset] / batch - expected) < 5 * error


def test_counts_are_stratified():
    counts = stratified_counts(64, 16, torch.Generator().manual_seed(1))
    assert torch.bincount(counts, minlength=17).tolist() == [0] + [4] * 16
    assert set(stratified_counts(5, 16, torch.Generator().manual_seed(2)).tolist()) <= set(range(1, 17))
