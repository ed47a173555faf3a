"""Where damped rounds, solved exactly, end: at p* from a law of which all orders agree, else elsewhere for each τ."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch

from pipeline.ctmc import exact
from tests.algorithms.harness import ALPHA, Bench, inconsistent


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def aimed_at(
    paths: Callable[[torch.Tensor], torch.Tensor],
    of_base: torch.Tensor,
    base: torch.Tensor,
    reward: torch.Tensor,
    tau: float,
    rounds: int,
) -> torch.Tensor:
    """log q(x_1, x_2) after exactly solved rounds from the base on rollouts of the empty answer.

    A round's minimiser is q ∝ Σ_paths p_u^{1-τ} (p^base e^{r/α})^τ, and the next policy has the posteriors of q.

    Args:
        paths: posteriors -> log p_u(path), [paths, M, M], of the rollouts.
        of_base: log p^base(path), as replayed.
        base: the base's posteriors.
    """
    drawn = paths(base)
    for _ in range(rounds):
        q = exact.tilted(((1 - tau) * drawn + tau * of_base).logsumexp(dim=0), reward, tau / ALPHA)
        drawn = paths(exact.posteriors(q))
    return q


def one_by_one(table: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Both orders of revealing the two tokens, without the factor ½."""
    table = (table / temperature).log_softmax(dim=-1)
    revealed, masked = table[:, :-1], table[:, -1]
    return torch.stack([masked[0][:, None] + revealed[1], masked[1][None, :] + revealed[0].T])


def both_at_once(table: torch.Tensor) -> torch.Tensor:
    return (table[0, -1][:, None] + table[1, -1][None, :])[None]


def divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> float:
    return float(exact.kl(log_p.flatten(), log_q.flatten()))


@pytest.mark.facts
@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_one_token_a_step_from_a_joint_law_reaches_the_optimum_for_every_step(bench, tau):
    base = exact.posteriors(bench.log_base)
    found = aimed_at(one_by_one, one_by_one(base), base, bench.reward, tau, 100)
    assert divergence(bench.target, found) < 1e-9


@pytest.mark.facts
def test_two_tokens_a_step_move_the_fixed_point_of_damped_rounds(bench):
    """τ = 1 has the base's own law of two tokens a step, tilted; the smaller τ, the more independent the two tokens."""
    base = exact.posteriors(bench.log_base)
    wanted = exact.tilted(both_at_once(base)[0], bench.reward, 1 / ALPHA)
    found = {tau: aimed_at(both_at_once, both_at_once(base), base, bench.reward, tau, 400) for tau in (1.0, 0.3, 0.05)}
    dependence = {tau: divergence(law, both_at_once(exact.posteriors(law))[0]) for tau, law in found.items()}
    assert divergence(wanted, found[1.0]) < 1e-12
    assert divergence(wanted, found[0.05]) > divergence(wanted, found[0.3]) > 0.02
    assert dependence[0.05] < dependence[0.3] < 0.6 * dependence[1.0]
    run = bench.run(rollout={"tokens_per_step": 2}, min_ess=0.3)
    targets = bench.make_targets(run, bench.rollouts(bench.policy(bench.target), run, 50))
    assert targets.diagnostics["ess_min"] < 15


@pytest.mark.facts
@pytest.mark.parametrize("tau", [1.0, 0.3, 0.05])
def test_damped_rounds_take_the_power_mean_of_orders_that_disagree(tau):
    """r = 0: the mean over orders of p^base for τ = 1, towards their geometric mean for small τ."""
    table = inconsistent()
    table[0, :-1] = math.log(0.5)  # p(x_1 | x_2) is even, although p(x_1 = 1 | ··) = .9
    found = aimed_at(one_by_one, one_by_one(table), table, torch.zeros(2, 2, dtype=torch.float64), tau, 2000)
    mean = (one_by_one(table).exp() ** tau).mean(dim=0) ** (1 / tau)
    torch.testing.assert_close(found.exp(), mean / mean.sum(), atol=1e-9, rtol=0)
    drift = divergence(exact.path_law(table), found)
    assert drift < 1e-12 if tau == 1 else drift > 1e-3


@pytest.mark.facts
def test_damped_rounds_at_another_temperature_collapse_and_are_refused(bench):
    """At T = 0.9 and τ = 0.05 all mass ends on one answer; τ = 1 reaches p* at any temperature."""
    base = exact.posteriors(bench.log_base)
    colder = partial(one_by_one, temperature=0.9)
    assert aimed_at(colder, one_by_one(base), base, bench.reward, 0.05, 400).max() > -0.01
    assert divergence(bench.target, aimed_at(colder, one_by_one(base), base, bench.reward, 1.0, 2)) < 1e-12
    variate = {"weights": "direct", "jumps": "first", "replay_rounds": 1, "control_variate": True}
    for refused, settings in (
        (True, {}),
        (False, {"weights": "direct"}),
        (False, variate),
        (True, variate | {"gain": 0.5}),
    ):
        run = bench.run(rollout={"temperature": 0.9, "start": "remasked"}, **settings)
        assert ("rollout.temperature: 1" in run.algorithm.conflict(run.rollout, exact_base=True)) is refused
