"""The central formula: weights of one at the optimum, and gradients that average to the exact one."""

import pytest
import torch

from pipeline.ctmc import exact
from pipeline.runtime.random_streams import Stream
from tests.algorithms.harness import Bench, plugin

REMASKED = {"start": "remasked"}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.mark.facts
@pytest.mark.parametrize("start", ["empty", "remasked"])
@pytest.mark.parametrize("weights", [{"weights": "direct"}, {"min_ess": 0.3}, {"largest_step": 0.1}])
def test_at_the_optimum_every_weight_is_one(bench, start, weights):
    """For every τ."""
    run = bench.run(rollout={"start": start}, **weights)
    targets = bench.make_targets(run, bench.rollouts(bench.policy(bench.target), run, 200))
    assert abs(torch.from_numpy(targets.columns["weight"]) - 1).max() < 1e-4
    assert targets.diagnostics["ess_min"] == pytest.approx(16, abs=1e-3)
    if weights != {"weights": "direct"}:
        return
    elsewhere = bench.policy(bench.log_base)
    targets = bench.make_targets(run, bench.rollouts(elsewhere, run, 200))
    assert targets.diagnostics["ess_mean"] < 15


@pytest.mark.facts
@pytest.mark.parametrize("weights", ["direct", "tempered"])
def test_policy_equal_to_base_without_reward_has_unit_weights(bench, weights):
    run, base = bench.run(weights=weights), bench.policy(bench.log_base)
    table = bench.rollouts(base, run, 100)
    index = table.schema.get_field_index("reward")
    table = table.set_column(index, table.schema.field(index), [[0.0] * len(table)])
    assert (bench.make_targets(run, table).columns["weight"] == 1).all()


@pytest.mark.facts
def test_tempered_weights_are_the_papers_where_enough_completions_keep_weight(bench):
    table = bench.rollouts(bench.policy(bench.log_base), bench.run(), 100)
    made = [bench.make_targets(bench.run(**it), table) for it in ({"min_ess": 0.01}, {"weights": "direct"})]
    assert made[0].diagnostics["tau"] == 1
    assert (made[0].columns["weight"] == made[1].columns["weight"]).all()
    bounded = bench.make_targets(bench.run(min_ess=0.01, largest_step=0.5 / bench.run().algorithm.alpha), table)
    assert bounded.diagnostics["tau"] == 0.5


def exact_gradient(bench: Bench, policy: torch.nn.Module, state: torch.Tensor, loss: str) -> torch.Tensor:
    """Of the mean over states of Σ_y [u - w + w log(w/u)]/λ, or Σ_y (u - w)²/λ², with w = Q*."""
    optimum, total = exact.posteriors(bench.target).exp(), torch.zeros((), dtype=torch.float64)
    masks = state == bench.mask_id
    for row, masked in zip(state, masks, strict=True):
        for i in masked.nonzero()[:, 0].tolist():
            other = bench.values if masked[1 - i] else int(row[1 - i])
            u = policy.table[i, bench.mask_id if masked[1 - i] else other, :-1].log_softmax(0)[: bench.values]
            q = optimum[i, other]
            squared = ((u.exp() - q) / masked.sum()).square().sum()
            total = total + (squared if loss == "squared" else -(q * u).sum() / masked.sum())
    (gradient,) = torch.autograd.grad(total / len(state), policy.table)
    return gradient


CASES = {
    "all": {"jumps": "all"},
    "first": {"jumps": "first"},
    "control": {"jumps": "first", "replay_rounds": 1, "control_variate": True},
    "squared": {"jumps": "first", "loss": "squared"},
}


def gradients(bench: Bench, behavior: torch.nn.Module, settings: dict, chunks: int, completions: int) -> torch.Tensor:
    """Sampled minus exact gradient at a third policy, one for each chunk of 32 states, [chunks, 2, S, V]."""
    run = bench.run(weights="direct", rollout={**REMASKED, "completions": completions}, **settings)
    policy = bench.policy(bench.target, noise=0.3)
    replay = bench.replay(bench.targets(behavior, run, 32 * chunks), run)
    differences = []
    for batch in replay.batches(chunks, 32, 0, Stream.REPLAY, 1):
        loss = plugin(run).loss(policy, batch, bench.context(behavior, run)).mean()
        (sampled,) = torch.autograd.grad(loss, policy.table)
        differences.append(sampled - exact_gradient(bench, policy, batch.state, run.algorithm.loss))
    return torch.stack(differences)


@pytest.mark.facts
@pytest.mark.parametrize("case", CASES)
def test_sampled_gradients_average_to_the_exact_one(bench, case):
    """Within 5 standard errors for every logit; K = 128 keeps the bias of order 1/K below them."""
    difference = gradients(bench, bench.policy(bench.log_base, noise=0.3), CASES[case], chunks=12, completions=128)
    error = difference.std(dim=0) / len(difference) ** 0.5
    assert (difference.mean(dim=0).abs() < 5 * error + 1e-6).all()
    assert error.max() < 0.05


def test_the_squared_loss_is_refused_in_blocks(bench):
    """It also moves the law of the second token where the first is masked, a block later, of which no target speaks."""
    run = bench.run(loss="squared", rollout={"block_length": 1})
    assert "loss: squared takes no rollout.block_length" in run.algorithm.conflict(run.rollout, exact_base=True)
    policy = bench.policy(bench.log_base, noise=0.3)
    batch = next(bench.replay(bench.targets(policy, run, 8), run).batches(1, 32, 0, Stream.REPLAY, 1))
    plugin(run).loss(policy, batch, bench.context(policy, run)).mean().backward()
    assert policy.table.grad[1, bench.mask_id].abs().max() > 1e-3


def test_the_control_variate_takes_the_noise_away_near_the_optimum(bench):
    behavior = bench.policy(bench.target, noise=0.03)
    noise = {name: gradients(bench, behavior, CASES[name], 4, 16).std(dim=0).norm() for name in ("first", "control")}
    assert noise["control"] < 0.1 * noise["first"]
