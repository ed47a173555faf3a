"""What the estimators' errors must be where theory says it."""

import math

import pytest
import torch

from pipeline.ctmc import exact
from pipeline.ctmc.estimators import completions_of, errors
from tests.ctmc.test_exact import random_joint, random_reward

BASE, REWARD, SIZE = random_joint(4, 0), random_reward(4), 4
OPTIMUM = exact.tilted(BASE, REWARD, 1.0)


def measured(joint: torch.Tensor, completions: int, groups: int):
    generator = torch.Generator().manual_seed(completions)
    return errors(BASE, exact.posteriors(joint), REWARD, 1.0, completions, groups, generator)


def test_completions_follow_the_law():
    order, tokens = completions_of(exact.posteriors(BASE), 400_000, torch.Generator().manual_seed(0))
    for chosen in (order == 0, order == 1):
        counts = torch.bincount(tokens[chosen] @ torch.tensor([SIZE, 1]), minlength=SIZE * SIZE)
        p = BASE.exp().flatten()
        assert ((counts / chosen.sum() - p).abs() < 5 * (p * (1 - p) / chosen.sum()).sqrt()).all()


def test_at_the_optimum():
    """All weights are 1: `first` has the multinomial variance, `control` none, and nothing is biased."""
    found = measured(OPTIMUM, 16, 50_000)
    q = exact.posteriors(OPTIMUM)[:, -1].exp().flatten() / 2
    multinomial = ((q * (1 - q)).sum() / 16 / q.square().sum()).item()
    assert found["first"].variance == pytest.approx(multinomial, rel=0.03)
    assert found["all"].variance < found["first"].variance
    assert found["control"].variance < 1e-20
    tail = (OPTIMUM.exp() * (-2 * (REWARD + exact.values(BASE, -REWARD)[0, -1])).exp()).sum() - 1
    assert found["analytic"].variance == pytest.approx(tail.item() / 16, rel=0.05)
    assert all(abs(error.bias) < 4 * error.bias_noise + 1e-20 for error in found.values())


def test_under_another_policy():
    """The weighted estimators' bias falls like 1/K; the analytic one keeps the factor E_u[e^{g - V}], whatever K."""
    few, many = measured(BASE, 4, 200_000), measured(BASE, 16, 200_000)
    for name in ("first", "all", "control"):
        slope = math.log(many[name].bias / few[name].bias) / math.log(4)
        assert slope == pytest.approx(-2, abs=0.4), name
    factor = (BASE.exp() * (-REWARD - exact.values(BASE, -REWARD)[0, -1]).exp()).sum().item()
    for found in (few, many):
        assert found["analytic"].bias == pytest.approx((factor - 1) ** 2, rel=0.02)


def test_the_noise_of_a_bias_is_the_spread_of_its_measurement():
    """Where nothing is biased. All entries of `analytic` have one factor in common, so its errors add up."""
    law, generator = exact.posteriors(OPTIMUM), torch.Generator().manual_seed(0)
    found = [errors(BASE, law, REWARD, 1.0, 16, 200, generator) for _ in range(400)]
    for name in ("first", "all", "analytic"):
        bias, noise = (torch.tensor([getattr(each[name], key) for each in found]) for key in ("bias", "bias_noise"))
        assert noise.mean().item() == pytest.approx(bias.std().item(), rel=0.2), name
