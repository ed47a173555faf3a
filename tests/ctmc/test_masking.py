"""x_t given x_1: the law of the hidden set, and the states of a stored trajectory."""

from collections import Counter
from itertools import combinations

import torch

from pipeline.ctmc.masking import REVEALED, block_by_block, remask, state_before, stratified_counts


def test_state_before_walks_from_start_to_x_1():
    tokens, unmask_step, mask = torch.tensor([[5, 6, 7]]), torch.tensor([[1, REVEALED, 0]]), 9
    states = [state_before(tokens, unmask_step, step, mask).tolist()[0] for step in range(3)]
    assert states == [[9, 6, 9], [9, 6, 7], [5, 6, 7]]


def test_hidden_sets_follow_the_bernoulli_law_with_t_integrated_out():
    """P(M) = ∫ (1-t)^|M| t^(L-|M|) dt, given |M| ≥ 1, is 1/L over sizes and uniform within a size."""
    length, batch = 3, 60_000
    generator = torch.Generator().manual_seed(0)
    counts = stratified_counts(torch.full((batch,), length), generator)
    hidden = remask(counts, torch.rand(batch, length, generator=generator))
    seen = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in hidden)
    for size in range(1, length + 1):
        subsets = list(combinations(range(length), size))
        for subset in subsets:
            expected = 1 / length / len(subsets)
            error = (expected * (1 - expected) / batch) ** 0.5
            assert abs(seen[subset] / batch - expected) < 5 * error


def test_counts_are_stratified():
    counts = stratified_counts(torch.full((64,), 16), torch.Generator().manual_seed(1))
    assert torch.bincount(counts, minlength=17).tolist() == [0] + [4] * 16
    few = stratified_counts(torch.full((5,), 16), torch.Generator().manual_seed(2))
    assert set(few.tolist()) <= set(range(1, 17))


def test_counts_are_uniform_where_rows_have_other_numbers_of_free_positions():
    most = torch.tensor([1, 2, 3, 5]).repeat(5000)
    counts = stratified_counts(most, torch.Generator().manual_seed(3))
    for free in (1, 2, 3, 5):
        share = torch.bincount(counts[most == free], minlength=free + 1) / 5000
        assert share[0] == 0 and (share[1:] - 1 / free).abs().max() < 5 * (free / 5000) ** 0.5 / free


def test_block_by_block_hides_later_blocks_whole_and_earlier_ones_not_at_all():
    """Every number of hidden positions; blocks of other lengths, and positions that the answer starts with."""
    generator = torch.Generator().manual_seed(0)
    block = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    free = torch.rand(64, 8, generator=generator) < 0.7
    free[:, 0] = True
    counts = stratified_counts(free.sum(dim=1), generator)
    noise, active = block_by_block(counts, torch.rand(64, 8, generator=generator), free, block)
    hidden = remask(counts, noise.masked_fill(~free, torch.inf))
    assert (hidden.sum(dim=1) == counts).all() and not (hidden & ~free).any()
    current = torch.where(active, block, 0).amax(dim=1, keepdim=True)
    assert (hidden | ~free)[(block > current)].all() and not hidden[block < current].any()
    assert (hidden & active).any(dim=1).all()
