"""Every method's loss is finite, moves the policy only, and does what its formula says where that can be enumerated."""

import math

import pytest
import torch

from pipeline.algorithms import NAMES
from pipeline.ctmc import exact
from pipeline.plugins import load_algorithm
from pipeline.runtime.random_streams import Stream
from pipeline.samplers.enumeration import masked_states, table_indices
from pipeline.settings.algorithms import SETTINGS
from pipeline.settings.stages import AdjointSettings
from tests.algorithms.harness import ALPHA, Bench, plugin

TRAINING = [name for name in NAMES if SETTINGS[name].trains]
WANTED = {"dam": {"weights": "direct"}}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def test_schemas_and_plugins_agree():
    for name in NAMES:
        algorithm = load_algorithm(name)
        assert algorithm.settings is SETTINGS[name]
        parts = (algorithm.make_targets, algorithm.replay, algorithm.loss)
        assert all(parts) if SETTINGS[name].trains else algorithm.decode and not any(parts)


def descend(bench: Bench, name: str, rounds: int, updates: int, lr: float, **settings: object) -> torch.nn.Module:
    """A few rounds of the method, from the base."""
    policy = bench.policy(bench.log_base)
    for number in range(1, rounds + 1):
        start = "remasked" if name == "dam_analytic" else "empty"
        run = bench.run(name, rollout={"start": start}, **{**WANTED.get(name, {}), **settings})
        behavior = bench.policy(bench.log_base)
        behavior.load_state_dict(policy.state_dict())
        targets = bench.targets(behavior, run, 64, number)
        optimizer = torch.optim.Adam(policy.parameters(), lr)
        for batch in bench.replay(targets, run).batches(updates, 64, 0, Stream.REPLAY, number):
            optimizer.zero_grad()
            plugin(run).loss(policy, batch, bench.context(behavior, run)).mean().backward()
            optimizer.step()
    return policy


def law(bench: Bench, policy: torch.nn.Module) -> torch.Tensor:
    table = policy.table.detach()[:, [*range(bench.values), bench.mask_id], : bench.mask_id].log_softmax(-1)
    return exact.path_law(table[..., : bench.values])


@pytest.mark.parametrize("name", TRAINING)
def test_every_method_raises_the_reward(bench, name):
    before, after = (law(bench, p).exp() for p in (bench.policy(bench.log_base), descend(bench, name, 3, 15, 0.05)))
    gain = ((after - before) * bench.reward).sum()
    assert gain > 0.03, gain


@pytest.mark.parametrize("name", ["dam", "dam_analytic"])
def test_adjoint_matching_approaches_the_optimum(bench, name):
    kl = [
        float(exact.kl(bench.target.flatten(), law(bench, policy).flatten()))
        for policy in (bench.policy(bench.log_base), descend(bench, name, 3, 30, 0.1))
    ]
    assert kl[1] < 0.25 * kl[0], kl


def test_rows_of_masked_positions():
    values = torch.tensor([5, 3])
    state = torch.tensor([[9, 9], [3, 9], [9, 5], [5, 3]])
    position, other = table_indices(state, values, mask_id=9)
    assert position.tolist() == [0, 1, 1, 0] and other.tolist() == [2, 2, 1, 0]


def test_the_masked_states_of_a_table_are_on_the_device_of_the_values():
    for states in masked_states(torch.empty(3, dtype=torch.long, device="meta"), mask_id=9):
        assert states.device.type == "meta" and states.shape == (8, 2)


@pytest.mark.parametrize("value", ["mc", "pm"])
def test_the_law_of_svdd_is_that_of_its_candidates(bench, value):
    """The integral against 200,000 draws of N candidates, at a state whose next jump is the last."""
    run = bench.run("svdd", candidates=5, value=value)
    base = exact.posteriors(bench.log_base)
    table = plugin(run).law(base, bench.decoding(run))
    torch.testing.assert_close(table.exp().sum(-1), torch.ones(2, bench.values + 1, dtype=torch.float64))
    q, score = base[1, 0].exp(), bench.reward[0] / ALPHA
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(q.expand(200_000, -1), 5, replacement=True, generator=generator)
    weight = score[drawn].softmax(dim=1)
    for v in range(bench.values):
        hit = (weight * (drawn == v)).sum(dim=1)
        assert abs(hit.mean() - table[1, 0, v].exp()) < 5 * hit.std() / len(hit) ** 0.5


@pytest.mark.parametrize("alpha", [ALPHA, ALPHA / 1000])
def test_svdd_with_one_candidate_is_the_base(bench, alpha):
    """However much the reward tells the values apart."""
    run = with_alpha(bench.run("svdd", candidates=1), alpha)
    base = exact.posteriors(bench.log_base)
    table = plugin(run).law(base, bench.decoding(run))
    torch.testing.assert_close(table, base, atol=1e-4, rtol=0)


def test_svdd_at_a_low_temperature_keeps_the_best_candidate(bench):
    """p(v) = F(v)^N - F(v-)^N with F by value, at a state whose next jump is the last."""
    run = with_alpha(bench.run("svdd", candidates=3), 1e-7)
    base = exact.posteriors(bench.log_base)
    law, order = plugin(run).law(base, bench.decoding(run))[1, 0].exp(), bench.reward[0].argsort()
    below = base[1, 0].exp()[order].cumsum(0) ** 3
    torch.testing.assert_close(law[order], below.diff(prepend=below.new_zeros(1)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", ["mc", "pm"])
def test_svdd_at_an_infinite_temperature_is_the_base(bench, value):
    """α → ∞ keeps any of the candidates: law and frequencies of the answers are the base's (5 standard errors)."""
    run, count = with_alpha(bench.run("svdd", candidates=4, value=value), 1e12), 4000
    context, table = bench.decoding(run), exact.posteriors(bench.log_base)
    torch.testing.assert_close(plugin(run).law(table, context), table, atol=1e-4, rtol=0)
    assert_frequencies(bench, run, exact.path_law(table).exp().flatten(), count, slack=0.0)


@pytest.mark.parametrize("value", ["mc", "pm"])
def test_svdd_decodes_by_its_law(bench, value):
    """Frequencies of 4,000 answers against the enumerated law (5 standard errors); `pm` is exact, `mc` in the limit."""
    run = bench.run("svdd", candidates=4, value=value, lookahead=40)
    context = bench.decoding(run)
    law = plugin(run).law(exact.posteriors(bench.log_base), context)
    assert_frequencies(bench, run, exact.path_law(law).exp().flatten(), 4000, slack=0.01 if value == "mc" else 0.0)


def test_best_of_decodes_by_its_law(bench):
    """Frequencies of 4,000 answers against the enumerated law (5 standard errors); of one candidate it is the base."""
    run, base = bench.run("best_of", candidates=5), exact.posteriors(bench.log_base)
    law = exact.path_law(plugin(run).law(base, bench.decoding(run))).exp().flatten()
    assert_frequencies(bench, run, law, 4000, slack=0.0)
    order = bench.reward.flatten().argsort()
    below = bench.log_base.exp().flatten()[order].cumsum(0)
    assert law[order].cumsum(0).numpy() == pytest.approx((below**5).numpy())  # P(r ≤ level) of the best of 5


def test_best_of_keeps_what_the_base_almost_never_draws(bench):
    """K p^base(x) for the best x, also where the probabilities of better and of equal answers differ by rounding."""
    run, base = bench.run("best_of", candidates=5), bench.log_base.clone()
    best = divmod(int(bench.reward.argmax()), bench.values)
    base[best] = math.log(1e-20)
    base -= base.flatten().logsumexp(0)
    law = exact.path_law(plugin(run).law(exact.posteriors(base), bench.decoding(run)))
    assert law[best].exp().item() == pytest.approx(5 * base[best].exp().item(), rel=1e-9)


def with_alpha(run: AdjointSettings, alpha: float) -> AdjointSettings:
    return run.model_copy(update={"algorithm": run.algorithm.model_copy(update={"alpha": alpha})})


def assert_frequencies(bench: Bench, run: AdjointSettings, wanted: torch.Tensor, count: int, slack: float) -> None:
    """Whether `count` answers are distributed as `wanted`, within 5 standard errors and `slack`."""
    base = bench.policy(bench.log_base)

    def reward(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return bench.reward[tokens[:, 0].clamp(max=3), tokens[:, 1].clamp(max=3)]

    noise = torch.rand(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    prompt = torch.full((count, 1), bench.values)
    answers = plugin(run).decode(base, prompt, bench.starts(count), noise, reward, bench.decoding(run))
    frequency = torch.bincount(answers[:, 0] * 4 + answers[:, 1], minlength=16)[:16] / count
    assert ((frequency - wanted).abs() < 5 * (wanted / count).sqrt() + slack).all()
