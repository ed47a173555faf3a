"""Paired comparisons: exact p-values by hand, size of the test, Holm's correction."""

import itertools
import operator
from fractions import Fraction

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


@pytest.mark.parametrize("values", [[0.5], [1.0, -2.0, 2.0], [3.0, 1.0, 1.0, -1.0], [0.2, 0.0, 0.7, 0.1, -0.4]])
def test_p_values_by_enumeration(values: list[float]):
    """Sign by sign, in exact arithmetic; two-sided, so the order of the two methods does not matter."""
    exact = [Fraction(str(value)) for value in values]
    sums = [sum(map(operator.mul, signs, exact)) for signs in itertools.product((-1, 1), repeat=len(exact))]
    wanted = sum(abs(found) >= abs(sum(exact)) for found in sums) / len(sums)
    assert sign_flip_p_value(values) == sign_flip_p_value([-value for value in values]) == wanted


@pytest.mark.parametrize("missing", [float("nan"), float("inf")])
def test_a_difference_that_is_no_number(missing: float):
    """Comparisons with it are false, so p would be 0."""
    with pytest.raises(ValueError, match=f"a difference of {missing}"):
        sign_flip_p_value([1.0, 2.0, missing])


def test_comparison():
    """Mean and its standard error with n - 1."""
    found = compare([1.0, 2.0, 6.0])
    assert (found.n, found.mean, found.p_value) == (3, 3.0, 0.25)
    assert found.error == pytest.approx(np.sqrt(7 / 3))


@pytest.mark.parametrize("count", [0, 21])
def test_too_few_or_too_many(count: int):
    with pytest.raises(ValueError, match=f"{count} differences"):
        sign_flip_p_value([1.0] * count)


def test_holm_rejects_as_the_step_down_procedure_does():
    """Reject the smallest p while p₍ⱼ₎ ≤ a/(m - j), and stop at the first that is larger; ties included."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        p_values = (generator.integers(1, 9, size=5) / 64).tolist()
        for level in (0.03, 0.1, 0.3):
            rejected = set()
            for rank, index in enumerate(sorted(range(5), key=p_values.__getitem__)):
                if (5 - rank) * p_values[index] > level:
                    break
                rejected.add(index)
            assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_holm():
    """The smallest is multiplied by m, the next by m - 1 …, and none falls below one before it."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
