"""Paired comparisons of methods that ran with the same seeds, and so with the same data and base model. Torch-free."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST = 20
"""Pairs of which all 2ⁿ choices of signs are enumerated."""


@dataclass(frozen=True)
class Comparison:
    """Mean of n paired differences, its standard error, and the p-value of `sign_flip_p_value`."""

    n: int
    mean: float
    error: float
    p_value: float


def compare(differences: Sequence[float]) -> Comparison:
    """The comparison that these paired differences support; at least two of them."""
    values, n = np.asarray(differences, dtype=float), len(differences)
    error = float(values.std(ddof=1) / math.sqrt(n))
    return Comparison(n, float(values.mean()), error, sign_flip_p_value(differences))


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Two-sided exact p-value of Fisher's randomisation test for paired samples (The Design of Experiments, 1935).

    If two methods are equally good, each difference is as likely as its negative. p is the share of the 2ⁿ choices of
    signs whose |Σ ±d| is at least |Σ d|; it needs no normal distribution, and is never below 2^(1 - n).

    Raises:
        ValueError: for no difference, more than `MOST`, or one that is no finite number.
    """
    values = np.asarray(differences, dtype=float)
    if not 0 < len(values) <= MOST:
        raise ValueError(f"{len(values)} differences; from 1 to {MOST} can be enumerated")
    if not np.isfinite(values).all():
        raise ValueError(f"a difference of {values[~np.isfinite(values)][0]} has no place in a paired test")
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    rounding = 1e-9 * float(np.abs(values).sum())
    return float((np.abs(sums) >= abs(float(values.sum())) - rounding).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number m: max over j ≤ i of (m - j) p₍ⱼ₎, at most 1, j counted from 0 (Holm 1979).

    Rejecting where the result is at most a keeps the chance of even one false rejection at most a.
    """
    order, corrected, largest = sorted(range(len(p_values)), key=p_values.__getitem__), list(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
