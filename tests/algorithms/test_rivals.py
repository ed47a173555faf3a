"""What defines each rival but the policy gradients (see test_surrogates.py), by formula."""

import dataclasses
import math

import pytest
import torch

from pipeline.ctmc import exact
from pipeline.errors import PipelineError
from pipeline.runtime.random_streams import Stream
from pipeline.samplers.enumeration import posterior_table
from pipeline.training.replay_buffer import Replay
from tests.algorithms.harness import ALPHA, Bench, plugin

MASK = 8


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def test_dtm_matches_the_tilted_posterior_of_its_teacher(bench):
    """- Σ_v q log p with q = p_teacher + 1[v = X_i] (e^{h r} - 1), the mean over masked positions."""
    run = bench.run("dtm", step=2.0)
    teacher, policy = bench.policy(bench.log_base, noise=0.2), bench.policy(bench.log_base, noise=0.5)
    targets = bench.targets(teacher, run, 8)
    assert targets.column("weight").to_pylist() == pytest.approx(
        [math.exp(2.0 * reward) for reward in targets.column("reward").to_pylist()]
    )
    batch = next(bench.replay(targets, run).batches(1, 64, 0, Stream.REPLAY, 1))
    found = plugin(run).loss(policy, batch, bench.context(teacher, run))
    for row in range(64):
        wanted, masked = [], (batch.state[row] == bench.mask_id).nonzero()[:, 0].tolist()
        for i in masked:
            other = int(batch.state[row, 1 - i])
            q, p = (
                model.table[i, other].masked_fill(torch.arange(6) == 5, -math.inf).softmax(0)
                for model in (teacher, policy)
            )
            q = q.clone()
            q[batch.tokens[row, 0, i]] += batch.weight[row, 0] - 1
            wanted.append(-(q * p.log()).nan_to_num(0.0).sum())
        torch.testing.assert_close(found[row], torch.stack(wanted).mean(), atol=1e-5, rtol=1e-5)


def test_dtm_ends_at_one_over_alpha(bench):
    run, policy, previous = bench.run("dtm", step=3.0), bench.policy(bench.log_base), None
    taken = []
    for number in (1, 2, 3):
        previous = bench.targets(policy, run, 4, number, previous)
        taken.append(previous.column("step")[0].as_py())
    assert taken == pytest.approx([3.0, 1.0, 0.0]) and 1 / ALPHA == 4


def test_dtm_counts_rewards_below_0_as_0_and_says_how_many(bench):
    """As its authors do; a task with such rewards has to add a constant, or this method aims at another optimum."""
    run, policy = bench.run("dtm", step=2.0), bench.policy(bench.log_base)
    table = bench.rollouts(policy, run, 4)
    index = table.schema.get_field_index("reward")
    table = table.set_column(index, table.schema.field(index), [[-1.0, 0.0, 1.0, 1.0] * (len(table) // 4)])
    targets = bench.make_targets(run, table)
    assert targets.columns["weight"][:4] == pytest.approx([1.0, 1.0, math.exp(2.0), math.exp(2.0)])
    assert targets.diagnostics["rewards_below_0"] == 0.25


def test_dtm_refuses_weights_that_overflow(bench):
    run, policy = bench.run("dtm", step=100.0), bench.policy(bench.log_base)
    run = run.model_copy(update={"algorithm": run.algorithm.model_copy(update={"alpha": 0.001})})
    table = bench.rollouts(policy, run, 4)
    index = table.schema.get_field_index("reward")
    table = table.set_column(index, table.schema.field(index), [[0.0, 0.4] * (len(table) // 2)])
    assert max(bench.make_targets(run, table).columns["weight"]) == pytest.approx(math.exp(40))
    table = table.set_column(index, table.schema.field(index), [[0.0, 1.0] * (len(table) // 2)])
    with pytest.raises(PipelineError, match=r"algorithm.step 100: e\^\(step · reward\) overflows; take at most 40"):
        bench.make_targets(run, table)


def test_dmpo_weighs_by_two_softmaxes_and_teaches_nothing_where_rewards_are_equal(bench):
    run, policy = bench.run("dmpo"), bench.policy(bench.log_base, noise=0.3)
    targets = bench.targets(policy, run, 20)
    ratio, reward, weight = (
        torch.tensor(targets.column(name).to_pylist(), dtype=torch.float64).view(20, 16)
        for name in ("log_ratio", "reward", "weight")
    )
    wanted = 16 * ((ratio + reward / ALPHA).softmax(1) - (ratio - reward / ALPHA).softmax(1))
    torch.testing.assert_close(weight, wanted)
    torch.testing.assert_close(weight.sum(dim=1), torch.zeros(20, dtype=torch.float64))
    table = bench.rollouts(policy, run, 5)
    index = table.schema.get_field_index("reward")
    table = table.set_column(index, table.schema.field(index), [[0.5] * len(table)])
    assert abs(bench.make_targets(run, table).columns["weight"]).max() == 0


@pytest.mark.facts
def test_the_optimum_is_no_fixed_point_of_dmpo(bench):
    """There ℓ^+ is constant and ℓ^- = const - 2r/α, so w = 1/K - softmax(-2r/α), which is 0 for no unequal rewards."""
    run = bench.run("dmpo")
    targets = bench.targets(bench.policy(bench.target), run, 20)
    reward, weight = (torch.tensor(targets.column(name).to_pylist()).view(20, 16) for name in ("reward", "weight"))
    torch.testing.assert_close(weight, 1 - 16 * (-2 * reward / ALPHA).softmax(dim=1), atol=1e-4, rtol=1e-4)
    assert weight.abs().mean() > 0.3


def test_dmpo_shows_each_completion_under_two_masks_and_their_complements(bench):
    targets = bench.targets(bench.policy(bench.log_base), run := bench.run("dmpo"), 20)
    batch = next(bench.replay(targets, run).batches(1, 64, 0, Stream.REPLAY, 1))
    masked = (batch.state == bench.mask_id).view(16, 4, 2)
    assert torch.equal(masked[:, :2], ~masked[:, 2:])
    assert (batch.tokens.view(16, 4, 2) == batch.tokens.view(16, 4, 2)[:, :1]).all()


def test_the_weights_of_a_batch_of_dmpo_add_up_to_nothing(bench):
    targets = bench.targets(bench.policy(bench.log_base, noise=0.3), run := bench.run("dmpo"), 20)
    for batch in bench.replay(targets, run).batches(10, 128, 0, Stream.REPLAY, 1):  # 128 rows: 2 groups of 16, 4 masks
        assert batch.weight.abs().sum() > 1
        assert float(batch.weight.sum()) == pytest.approx(0, abs=1e-3)


def test_raft_keeps_the_best_of_its_window(bench):
    run, policy = bench.run("raft", replay_rounds=2), bench.policy(bench.log_base)
    first = bench.targets(policy, run, 10, 1)
    second = bench.targets(policy, run, 10, 2, first)
    third = bench.targets(policy, run, 10, 3, second)
    assert [len(table) for table in (first, second, third)] == [160, 320, 320]
    assert second.column("weight").to_pylist()[:160] == first.column("weight").to_pylist()


def test_sample_sizes_are_those_of_the_weights_and_of_nothing_else(bench):
    made = {}
    for name in ("raft", "dtm", "dmpo", "agrpo"):
        run = bench.run(name)
        made[name] = bench.make_targets(run, bench.rollouts(bench.policy(bench.log_base), run, 8))
    for name in ("raft", "dtm"):
        weight = made[name].columns["weight"].reshape(-1, 16)
        sizes = weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)
        assert made[name].diagnostics["ess_min"] == pytest.approx(sizes.min())
        assert made[name].diagnostics["ess_mean"] == pytest.approx(sizes.mean()) and sizes.mean() < 16
    assert not [name for name in ("dmpo", "agrpo") if any("ess" in key for key in made[name].diagnostics)]


def test_block_aligned_states_are_those_of_a_rollout_in_blocks():
    """Blocks of 3 in 8 positions: clean ones, one in part, then all masked; the loss reads the one in part."""
    tokens = torch.randint(0, MASK, (50, 1, 8), generator=torch.Generator().manual_seed(0))
    empty, one = torch.full((50, 8), MASK), torch.ones(50, 1)
    replay = Replay(
        torch.zeros(50, 1, dtype=torch.long), empty, tokens, tokens, one, MASK, "weighted_completions", block_length=3
    )
    batch = next(replay.batches(1, 400, 0, Stream.REPLAY, 1))
    masked, read = batch.state == MASK, batch.loss_positions[:, 0]
    block = torch.arange(8) // 3
    for row in range(400):
        active = block[read[row]].unique()
        assert len(active) == 1 and torch.equal(read[row], masked[row] & (block == active))
        assert not masked[row][block < active].any() and masked[row][block > active].all()
    assert set(masked.sum(dim=1).tolist()) == set(range(1, 9))


def test_a_large_reward_does_not_overflow_the_analytic_weight():
    """e^{r/α} alone is beyond float32 here; e^{g - V}, in which a constant cancels, is not."""
    losses = []
    for shift in (0.0, 2.0):
        bench = Bench()
        bench.reward += shift
        bench.task = dataclasses.replace(
            bench.task, enumerated=dataclasses.replace(bench.task.enumerated, reward=bench.reward.numpy())
        )
        run = bench.run("dam_analytic", rollout={"start": "remasked"})
        run = run.model_copy(update={"algorithm": run.algorithm.model_copy(update={"alpha": 0.02})})
        policy = bench.policy(bench.log_base)
        batch = next(bench.replay(bench.targets(policy, run, 16), run).batches(1, 16, 0, Stream.REPLAY, 1))
        losses.append(plugin(run).loss(policy, batch, bench.context(policy, run)))
    assert 3 / 0.02 > 88
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("value", ["mc", "pm"])
def test_svdd_decodes_a_row_alike_in_any_batch(bench, value):
    run, base = bench.run("svdd", candidates=3, value=value, lookahead=2), bench.policy(bench.log_base)
    noise = torch.rand(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    prompt = torch.full((8, 1), bench.values)

    def reward(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return bench.reward[tokens[:, 0].clamp(max=3), tokens[:, 1].clamp(max=3)]

    def decoded(rows: slice) -> torch.Tensor:
        start = bench.starts(8)[rows]
        return plugin(run).decode(base, prompt[rows], start, noise[rows], reward, bench.decoding(run))

    assert torch.equal(decoded(slice(8)), torch.cat([decoded(slice(k, k + 2)) for k in (0, 2, 4, 6)]))


def test_the_saved_law_of_a_table_in_float32_sums_to_one(bench):
    """Float64 from the logits on: to 1e-12, not to the rounding of float32."""
    from pipeline.samplers.enumeration import posterior_table  # noqa: PLC0415

    policy = bench.policy(bench.log_base, noise=0.5).float()
    with torch.no_grad():
        policy.table[..., bench.values :] = -1e4  # nothing on other tokens
    table = posterior_table(policy, torch.tensor([bench.values]), torch.arange(bench.values), bench.mask_id)
    assert abs(exact.path_law(table).exp().sum().item() - 1) < 1e-12


@pytest.mark.parametrize("independent", [False, True])
def test_drakes_learns_how_a_token_changes_the_law_of_the_next_one(independent):
    """The reward reads the second token alone. Where the first was drawn before it, its logits have a gradient from the
    law of the second given the first; none if that law is the same for every first token."""
    bench = Bench()
    bench.task.enumerated.reward[:] = torch.rand(4, generator=torch.Generator().manual_seed(1)).numpy()
    joint = bench.log_base.exp()
    if independent:
        joint = torch.outer(joint.sum(1), joint.sum(0))
    bench.log_base = joint.log()
    run, policy = bench.run("drakes", softness=0.5), bench.policy(bench.log_base)
    batch = next(bench.replay(bench.targets(policy, run, 16), run).batches(1, 16, 0, Stream.REPLAY, 1))
    loss = plugin(run).loss(policy, batch, bench.context(policy, run))
    (gradient,) = torch.autograd.grad(loss.sum(), policy.table)
    empty = gradient[0, bench.mask_id]  # of the logits of the first token of an empty answer
    assert (empty.abs().max() < 1e-12) == independent


def test_the_drakes_loss_is_the_penalised_reward(bench):
    """Its mean over answers: - E[r] + α KL of the paths, within five standard errors."""
    run, policy = bench.run("drakes", softness=0.5), bench.policy(bench.log_base, noise=0.7)
    rows = bench.targets(bench.policy(bench.log_base), run, 256)
    batch = next(bench.replay(rows, run).batches(1, 4000, 0, Stream.REPLAY, 1))
    loss = plugin(run).loss(policy, batch, bench.context(policy, run)).detach()
    known = (torch.tensor([bench.values]), torch.arange(bench.values), bench.mask_id)
    p, q = (posterior_table(model, *known) for model in (policy, bench.policy(bench.log_base)))
    kl = (p.exp() * (p - q) - p.exp() + q.exp()).sum(2)
    second = (p[0, -1].exp() * kl[1, :-1]).sum() + (p[1, -1].exp() * kl[0, :-1]).sum()
    wanted = ALPHA * (kl[:, -1].mean() + second / 2) - (exact.path_law(p).exp() * bench.reward).sum()
    assert abs(loss.mean() - wanted) < 5 * loss.std() / len(loss) ** 0.5
