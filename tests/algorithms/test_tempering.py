"""Tempered weights: the base counts in every round, the window's exponents, p* reached from a wrong policy."""

import pyarrow as pa
import pytest
import torch

from pipeline.ctmc import exact
from pipeline.objectives.targets import mean_and_error
from pipeline.runtime.random_streams import Stream
from pipeline.settings.stages import AdjointSettings
from tests.algorithms.harness import ALPHA, Bench, inconsistent, plugin


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def law(bench: Bench, policy: torch.nn.Module) -> torch.Tensor:
    """log p(x_1, x_2) of a tabular policy."""
    table = policy.table.detach()[:, [*range(bench.values), bench.mask_id], : bench.mask_id].log_softmax(-1)
    return exact.path_law(table[..., : bench.values])


def copy_of(bench: Bench, policy: torch.nn.Module) -> torch.nn.Module:
    other = bench.policy(bench.log_base)
    other.load_state_dict(policy.state_dict())
    return other


def chain(
    bench: Bench, run: AdjointSettings, policy: torch.nn.Module, rounds: int, states: int, updates: int = 120
) -> torch.nn.Module:
    """Rounds of rollouts, targets and training, from a copy of the policy on."""
    policy, previous = copy_of(bench, policy), None
    for number in range(1, rounds + 1):
        behavior = copy_of(bench, policy)
        previous = bench.targets(behavior, run, states, number, previous)
        optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, updates)
        for batch in bench.replay(previous, run).batches(updates, 1024, 0, Stream.REPLAY, number):
            optimizer.zero_grad()
            plugin(run).loss(policy, batch, bench.context(behavior, run)).mean().backward()
            optimizer.step()
            schedule.step()
    return policy


@pytest.mark.facts
@pytest.mark.parametrize("start", ["empty", "remasked"])
@pytest.mark.parametrize("weights", ["tempered", "direct"])
def test_the_base_counts_in_every_round(bench, start, weights):
    """Another base gives other weights, in the first round and in those that have a window of older rows."""
    run = bench.run(weights=weights, rollout={"start": start}, replay_rounds=2)
    other = bench.policy(bench.log_base, noise=0.5)
    policy, previous = bench.policy(bench.log_base, noise=0.2), None
    for number in (1, 2, 3):
        table = bench.rollouts(policy, run, 50, number)
        ours, theirs = (
            bench.make_targets(run, table, base, previous).columns["weight"][-len(table) :] for base in (None, other)
        )
        assert abs(ours - theirs).max() > 0.05
        previous = bench.targets(policy, run, 50, number, previous)


def test_the_exponent_of_a_kept_row_is_what_all_its_rounds_have_gone(bench):
    """1 - Π (1 - τ_i) over the rounds since the row was drawn; W = K softmax(exponent · ℓ) in each group."""
    run, policy = bench.run(replay_rounds=3, min_ess=0.95), bench.policy(bench.log_base, noise=0.2)
    previous, taus = None, []
    for number in (1, 2, 3):
        table = bench.rollouts(policy, run, 20, number)
        found = bench.make_targets(run, table, previous=previous)
        taus.append(found.diagnostics["tau"])
        previous = bench.targets(policy, run, 20, number, previous)
    assert all(0 < tau < 1 for tau in taus)
    left = torch.tensor([1 - tau for tau in taus], dtype=torch.float64)
    wanted = 1 - torch.stack([left.prod(), left[1:].prod(), left[2:].prod()])
    step, ratio, reward = (torch.tensor(previous.column(name).to_pylist()) for name in ("step", "log_ratio", "reward"))
    torch.testing.assert_close(step.view(3, -1)[:, 0], wanted.float())
    log_weight = (step * (ratio + reward / ALPHA)).view(-1, 16)
    weight = torch.tensor(previous.column("weight").to_pylist()).view(-1, 16)
    torch.testing.assert_close(weight, 16 * log_weight.softmax(dim=1), atol=1e-4, rtol=1e-4)


@pytest.mark.facts
def test_the_chain_reaches_the_optimum_from_a_wrong_policy_and_reward_weighting_does_not(bench):
    """KL(p* ‖ p^u) < 1e-3 although the first policy has nothing to do with the base; `rwr` keeps what was wrong."""
    wrong = bench.policy(bench.log_base.flip(0, 1), noise=0.3)
    tempered = bench.run(largest_step=2.0, min_ess=0.3, replay_rounds=3)
    weighted = bench.run("rwr", min_ess=0.3, replay_rounds=3)
    kl = {
        name: float(exact.kl(bench.target.flatten(), law(bench, chain(bench, run, wrong, rounds, 768)).flatten()))
        for name, run, rounds in (("tempered", tempered, 14), ("weighted", weighted, 4))
    }
    assert kl["tempered"] < 1e-3, kl
    assert kl["weighted"] > 0.05, kl


@pytest.mark.facts
@pytest.mark.parametrize("weights", ["tempered", "direct"])
def test_the_chain_reaches_the_optimum_block_by_block(bench, weights):
    """In blocks of one token the law is p(x_1 | ··) p(x_2 | x_1·), and no other state is learnt."""
    steps = {"largest_step": 2.0, "min_ess": 0.3, "replay_rounds": 3}
    run = bench.run(rollout={"block_length": 1}, weights=weights, **steps)
    policy = chain(bench, run, bench.policy(bench.log_base, noise=0.5), 6, 512)
    table = policy.table.detach()[:, [*range(bench.values), bench.mask_id], : bench.mask_id].log_softmax(-1)
    table = table[..., : bench.values]
    reached = table[0, -1, :, None] + table[1, :-1]
    kl = float(exact.kl(bench.target.flatten(), reached.flatten()))
    assert kl < 1e-3, kl
    unseen = bench.policy(bench.log_base, noise=0.5).table
    assert policy.table[1, bench.mask_id].equal(unseen[1, bench.mask_id])


DRIFT = {
    ("remasked", "first"): [0.0, 0.0],
    ("empty", "all"): [0.0, 0.0],
    ("empty", "first"): [0.0, 0.0],
    ("remasked", "all"): [0.087, 0.223],
}


@pytest.mark.facts
@pytest.mark.parametrize(("start", "jumps"), DRIFT)
def test_which_jumps_keep_the_law_of_a_base_whose_orders_disagree(start, jumps):
    """Two exactly solved rounds with r = 0: the minimisers of the loss, from the law of the completions' paths."""
    table = inconsistent()
    law_of_base = exact.path_law(table)
    for wanted in DRIFT[start, jumps]:
        joint = exact.path_law(table)
        if start == "empty":  # the any-order posteriors of the answers
            table = exact.posteriors(joint)
        elif jumps == "all":  # from both masked: the marginals over both orders; from one masked: as they are
            table = torch.cat([table[:, :-1], exact.posteriors(joint)[:, -1:]], dim=1)
        kl = float(exact.kl(law_of_base.flatten(), exact.path_law(table).flatten()))
        assert kl == pytest.approx(wanted, abs=1e-3)


def test_the_biased_pair_stops_unless_the_base_is_an_exact_joint():
    run = Bench().run(jumps="all", rollout={"start": "remasked"})
    assert "biased" in run.algorithm.conflict(run.rollout, exact_base=False)
    assert run.algorithm.conflict(run.rollout, exact_base=True) == ""
    unset = Bench().run(rollout={"start": "remasked"})
    assert unset.algorithm.conflict(unset.rollout, exact_base=False) == ""


def test_errors_count_groups_not_rows():
    """Rows of one group that are all alike add nothing; groups of one size give s/√G of their means."""
    values, group = torch.tensor([1.0, 1.0, 3.0, 3.0, 5.0, 5.0]).double(), torch.tensor([0, 0, 1, 1, 2, 2])
    mean, error = mean_and_error(values, group)
    assert (mean, error) == (3.0, pytest.approx((4 / 3) ** 0.5))
    assert mean_and_error(values[:2], group[:2]) == (1.0, 0.0)


def test_a_batch_of_older_rows_needs_no_base(bench):
    """Rows of the window keep the log ratio that was computed when they were drawn."""
    run, policy = bench.run(replay_rounds=2), bench.policy(bench.log_base, noise=0.2)
    first = bench.targets(policy, run, 10, 1)
    second: pa.Table = bench.targets(policy, run, 10, 2, first)
    assert second.column("log_ratio").to_pylist()[: len(first)] == first.column("log_ratio").to_pylist()
