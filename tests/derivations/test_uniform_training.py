"""Training with uniform noise reaches the optimum: 2 tokens out of 7."""

import pytest

from tests.derivations.uniform_training import Problem, TabularPolicy, train

PROBLEM = Problem(values=7, steps=64)


@pytest.fixture(scope="module")
def trained() -> tuple[TabularPolicy, list[float]]:
    policy = TabularPolicy(PROBLEM, bins=4)
    return policy, train(policy, rounds=6, rollouts=4096, updates=150, lr=0.1)


def test_policy_reaches_the_optimum(trained):
    """KL(p*||p^u) ≤ 1e-2 from 0.79 at the base; the chain of u* itself, the floor, is below 2e-3."""
    assert PROBLEM.kl_of_optimal_rate() < 2e-3
    assert TabularPolicy(PROBLEM, bins=4).kl() > 0.7
    assert trained[0].kl() < 1e-2


def test_weights_even_out_as_the_policy_improves(trained):
    share = trained[1]
    assert share[0] < 0.5
    assert share[-1] > 0.75
