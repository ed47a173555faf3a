"""Masks are those of the rows: fair, independent, and the same however a batch is split or padded."""

import torch

from pipeline.models.row_dropout import RowDropout, draw_masks, keep

RATE = 0.3


def masks(rows: range, tokens: int, *, cut: int = 0, layers: int = 2, update: int = 0, seed: int = 0) -> torch.Tensor:
    """What two layers leave of ones, [layers, n, T, D]."""
    module = torch.nn.Sequential(*(RowDropout(RATE) for _ in range(layers)))
    draw_masks(module, seed, 1, update, rows, cut, torch.device("cpu"))
    return torch.stack([layer(torch.ones(len(rows), tokens, 16)) for layer in module])


def test_fair_and_independent():
    """Shares kept, alone and in pairs of neighbours along every axis, within five standard errors."""
    kept = (masks(range(64), 40) > 0).double()
    assert abs(kept.mean() - (1 - RATE)) < 5 * (RATE * (1 - RATE) / kept.numel()) ** 0.5
    for axis in range(4):
        both = kept.diff(dim=axis) == 0
        share, error = (1 - RATE) ** 2 + RATE**2, 0.5 / both.numel() ** 0.5
        assert abs(both.double().mean() - share) < 5 * error, axis
    assert not torch.equal(masks(range(4), 8), masks(range(4), 8, update=1))
    assert not torch.equal(masks(range(4), 8), masks(range(4), 8, seed=1))


def test_the_mean_stays_and_nothing_is_dropped_outside_training():
    assert abs(masks(range(64), 40).mean() - 1) < 0.01
    layer, x = RowDropout(RATE), torch.randn(2, 3, 4)
    assert torch.equal(layer.eval()(x), x) and torch.equal(RowDropout(0.0)(x), x)


def test_splits_and_padding_change_no_mask():
    whole = masks(range(8), 10)
    for rows in (range(4), range(4, 8), range(5, 6)):
        assert torch.equal(masks(rows, 10), whole[:, rows.start : rows.stop])
        assert torch.equal(masks(rows, 7), whole[:, rows.start : rows.stop, -7:])
        assert torch.equal(masks(rows, 7, cut=2), whole[:, rows.start : rows.stop, 1:-2])


def test_several_completions_of_a_row_have_masks_of_their_own():
    layer = RowDropout(RATE)
    draw_masks(layer, 0, 1, 0, range(3), 0, torch.device("cpu"))
    three, six = layer(torch.ones(3, 5, 16)), layer(torch.ones(6, 5, 16)).view(3, 2, 5, 16)
    assert torch.equal(six[:, 0], three) and not torch.equal(six[:, 0], six[:, 1])


def test_rates_at_the_ends():
    keys = torch.arange(4) * 2**29 + 12345
    assert keep(keys, 3, 5, 0.0).all() and keep(keys, 300, 5, 0.999).float().mean() < 0.01
