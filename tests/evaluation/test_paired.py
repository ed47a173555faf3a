"""Paired comparisons: exact p-values by hand, size of the test, Holm's correction."""

import itertools

import numpy as np
import pytest

from pipeline.evaluation.paired import compare, holm, sign_flip_p_value


def test_p_values_by_hand():
    """Three differences of one sign: 2 of 8 choices of signs are as extreme."""
    assert sign_flip_p_value([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip_p_value([-1.0, -2.0, -3.0]) == 2 / 8
    assert sign_flip_p_value([1.0, 2.0, -3.0]) == 1  # the sum is 0
    assert sign_flip_p_value([3.0, -1.0]) == 1  # |±3 ± 1| is always at least 2
    assert sign_flip_p_value([0.1] * 12) == 2 / 2**12  # sums that are equal but for rounding count as equal
    assert sign_flip_p_value([0.0, 0.0]) == 1


def test_size_of_the_test():
    """Over all signs of one set of differences, p ≤ a happens for at most a share a of them."""
    sizes = np.array([0.3, 1.0, 1.7, 2.2, 4.0, 4.1])
    found = [sign_flip_p_value(sizes * signs) for signs in itertools.product((-1, 1), repeat=6)]
    for level in (0.05, 0.1, 0.25, 0.5):
        assert np.mean(np.array(found) <= level) <= level


def test_comparison():
    """Mean and its standard error with n - 1."""
    found = compare([1.0, 2.0, 6.0])
    assert (found.n, found.mean, found.p_value) == (3, 3.0, 0.25)
    assert found.error == pytest.approx(np.sqrt(7 / 3))


@pytest.mark.parametrize("count", [0, 21])
def test_too_few_or_too_many(count: int):
    with pytest.raises(ValueError, match=f"{count} differences"):
        sign_flip_p_value([1.0] * count)


def test_holm():
    """The smallest is multiplied by m, the next by m - 1 …, and none falls below one before it."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
