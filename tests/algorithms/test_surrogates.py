"""The policy gradients: their losses and gradients by formula, however a batch is cut, and a ratio ρ = p_θ / p_old that
is 1, with nothing clipped, until the round's first update has been made."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pipeline.algorithms import agrpo, coupled_grpo, diffu_grpo
from pipeline.ctmc.losses import clipped_surrogate
from pipeline.objectives.context import LossContext
from pipeline.objectives.policy_gradient import mean_to_the_end, surrogate_loss
from pipeline.runtime.random_streams import Stream
from pipeline.settings.algorithms import SETTINGS, Agrpo
from pipeline.settings.sections import Rollout, Train
from pipeline.text.tokenizer import PADDING
from pipeline.training.adamw import AdamW
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import fit
from pipeline.training.replay_buffer import Batch, Replay
from tests.algorithms.harness import Bench, plugin
from tests.conftest import llada, task_of

MASK, GROUPS, COMPLETIONS, LENGTH = 8, 8, 4, 5
COUPLED = SETTINGS["coupled_grpo"](name="coupled_grpo")
SEEN = {
    "diffu_grpo": (diffu_grpo, lambda model, batch: diffu_grpo.one_step_log_prob(model, batch, 0.15, MASK)),
    "coupled_grpo": (coupled_grpo, lambda model, batch: coupled_grpo.coupled_log_prob(model, batch, COUPLED, MASK)),
    "agrpo": (agrpo, agrpo.step_log_prob),
}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def replay(states: str) -> Replay:
    """Completions at random, with advantages of both signs and prompts that are not all alike."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, MASK, (GROUPS, COMPLETIONS, LENGTH), generator=generator)
    order = torch.rand(tokens.shape, generator=generator).argsort(dim=-1)
    prompt = torch.randint(0, MASK, (GROUPS, 6), generator=generator)
    advantage = torch.randn(GROUPS, COMPLETIONS, generator=generator)
    return Replay(prompt, torch.full((GROUPS, LENGTH), MASK), tokens, order, advantage, MASK, states)


@pytest.mark.parametrize("name", SEEN)
def test_the_ratio_is_one_at_the_first_update_of_every_micro_batch(name, tmp_path):
    """Two micro-batches an update, through the real loop: exactly 1 in both of the first, and moved afterwards."""
    module, log_prob = SEEN[name]
    settings = SETTINGS[name](name=name)
    behavior, policy = llada(9, MASK), llada(9, MASK)
    frozen = {"behavior": behavior, "base": behavior}
    context = LossContext(settings, task_of("sudoku"), MASK, torch.arange(0), Rollout(), frozen)
    ratios: list[torch.Tensor] = []

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            ratios.append((log_prob(model, batch) - log_prob(behavior, batch)).exp())
        return module.loss(model, batch, context)

    train = Train(batch_size=4, gradient_accumulation_steps=2, lr=0.05, warmup=0)
    batches = replay("path_states" if name == "agrpo" else "starting_states").batches(3, 4, 0, Stream.REPLAY, 1)
    checkpoint = Checkpoint(tmp_path / "checkpoint", "key")
    key = {"seed": 0, "round_": 1}
    fit(
        policy, AdamW(policy, train), batches, loss, lambda _: train.lr, train, checkpoint, **key, updates=3, title=name
    )
    clipped = [((ratio - 1).abs() > settings.epsilon).float().mean().item() for ratio in ratios]
    assert len(ratios) == 6 and clipped[:2] == [0.0, 0.0]
    for ratio in ratios[:2]:
        assert torch.equal(ratio, torch.ones_like(ratio))
    assert all((ratio - 1).abs().max() > 1e-3 for ratio in ratios[2:])


def test_every_update_masks_other_prompt_tokens():
    """q̃ belongs to the rows of a batch: all models see the same one, and the next update another."""
    first, second = (
        batch.noise[:, :6] < 0.15 for batch in replay("starting_states").batches(2, 8, 0, Stream.REPLAY, 1)
    )
    assert first.any() and not torch.equal(first, second)


@pytest.mark.parametrize("name", ["diffu_grpo", "coupled_grpo"])
def test_padding_and_cutting_change_no_grpo_loss(name):
    """Ragged prompts: the rows of a batch one by one, without the padding, give the same losses."""
    run = Bench().run(name, beta=0.1)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, MASK, (6, 5), generator=generator)
    prompt[:3, :3] = PADDING
    tokens = torch.randint(0, MASK, (6, 4, 5), generator=generator)
    advantage, empty = torch.randn(6, 4, generator=generator), torch.full((6, 5), MASK)
    replay = Replay(prompt, empty, tokens, tokens, advantage, MASK, "starting_states")
    batch = next(replay.batches(1, 6, 0, Stream.REPLAY, 1))
    policy, behavior = llada(9, MASK), llada(9, MASK, seed=1)
    bench = Bench()
    context = bench.context(behavior, run)
    object.__setattr__(context, "mask_id", MASK)
    object.__setattr__(context, "frozen", {"behavior": behavior, "base": behavior})
    whole = plugin(run).loss(policy, batch, context)
    alone = torch.cat([plugin(run).loss(policy, batch.rows(slice(row, row + 1)), context) for row in range(6)])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.facts
def test_agrpo_has_the_gradient_of_the_expected_reward(bench):
    """Over all groups of two paths: ∇E[R], times (G - 1)/G = ½, divided by the number of steps, 2."""
    run, policy, behavior = bench.run("agrpo"), values_only(bench, 0.3), values_only(bench, 0.3)
    order, x_1, x_2 = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4)).unbind(1)
    table, tokens, reward = posteriors_of(bench, policy), torch.stack([x_1, x_2], dim=1), bench.reward[x_1, x_2]
    forwards, backwards = table[0, -1, x_1] + table[1, x_1, x_2], table[1, -1, x_2] + table[0, x_2, x_1]
    chance = torch.where(order == 0, forwards, backwards).exp() / 2
    (wanted,) = torch.autograd.grad((chance * reward).sum() / 4, policy.table)
    path, other, step = torch.cartesian_prod(torch.arange(32), torch.arange(32), torch.arange(2)).unbind(1)
    revealed = torch.stack([order, 1 - order], dim=1)[path]
    state = torch.where(revealed >= step[:, None], bench.mask_id, tokens[path])
    advantage = (reward[path] - reward[other]) / 2
    prompt, read = torch.full((len(path), 1), bench.values), (revealed == step[:, None])[:, None]
    batch = Batch(prompt, state, tokens[path][:, None], advantage[:, None], read, torch.zeros(len(path), 4))
    loss = plugin(run).loss(policy, batch, bench.context(behavior, run))
    (found,) = torch.autograd.grad((loss * (chance[path] * chance[other]).detach() / 2).sum(), policy.table)
    torch.testing.assert_close(found, -wanted, atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("name", ["diffu_grpo", "coupled_grpo"])
def test_the_grpo_losses_are_their_formulas(bench, name):
    """Token by token: l, the clipped ratio, the penalty and the mean over a group."""
    run = bench.run(name, epsilon=0.2, beta=0.3, rollout={"completions": 3})
    policy, behavior = values_only(bench, 0.5), values_only(bench, 0.0)
    batch = next(bench.replay(bench.targets(behavior, run, 6), run).batches(1, 6, 0, Stream.REPLAY, 1))
    context = bench.context(behavior, run)
    tables = [posteriors_of(bench, model).detach() for model in (policy, behavior, context.frozen["base"])]

    def log_prob(table: torch.Tensor, row: int, k: int, i: int) -> torch.Tensor:
        token, other = batch.tokens[row, k, i], batch.tokens[row, k, 1 - i]
        whole = table[i, -1, token]
        if name == "diffu_grpo":
            return whole
        t = 0.2 + 0.6 * batch.noise[row, -1]
        hidden = batch.noise[row, 1:3] < t
        shown = -1 if hidden[0] == hidden[1] else other
        return (whole + table[i, shown, token] / (t if hidden[i] else 1 - t)) / 2

    found = plugin(run).loss(policy, batch, context)
    for row in range(6):
        terms = []
        for k, i in itertools.product(range(3), range(2)):
            new, old, base = (log_prob(table, row, k, i) for table in tables)
            ratio, advantage = (new - old).exp(), batch.weight[row, k]
            clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            terms.append(0.3 * ((base - new).exp() - (base - new) - 1) - clipped)
        torch.testing.assert_close(found[row].detach(), torch.stack(terms).mean(), atol=1e-6, rtol=1e-5)


def values_only(bench: Bench, noise: float) -> torch.nn.Module:
    """A policy that draws no other tokens than the problem's values."""
    policy = bench.policy(bench.log_base, noise)
    with torch.no_grad():
        policy.table[..., bench.values :] = -1e4
    return policy


def posteriors_of(bench: Bench, policy: torch.nn.Module) -> torch.Tensor:
    """log p(x_i = v | x_j = u) of a tabular policy, in the layout of `ctmc.exact`."""
    return policy.table[:, [*range(bench.values), bench.mask_id], : bench.values].log_softmax(dim=-1)


def test_the_loss_stops_at_the_first_end():
    tokens = torch.tensor([[[1, 9, 2, 9], [1, 2, 3, 4]]])
    value = torch.tensor([[[1.0, 2.0, 100.0, 100.0], [3.0, 4.0, 5.0, 6.0]]])
    everything = torch.ones(1, 4, dtype=torch.bool)
    assert mean_to_the_end(value, tokens, everything, {9}).tolist() == [3.5]
    assert mean_to_the_end(value, tokens, everything, frozenset()).tolist() == [value.mean().item()]
    assert mean_to_the_end(value, tokens, torch.tensor([[False, True, False, True]]), {9}).tolist() == [4.0]
    after_it = torch.tensor([[False, False, True, True]])
    assert mean_to_the_end(value[:, :1], tokens[:, :1], after_it, {9}).tolist() == [0.0]


def test_the_agrpo_loss_is_its_formula(bench):
    """Step by step, with the penalty times ρ."""
    run = bench.run("agrpo", epsilon=0.2, beta=0.3)
    policy, behavior, base = (values_only(bench, noise) for noise in (0.5, 0.0, 0.9))
    batch = next(bench.replay(bench.targets(behavior, run, 6), run).batches(1, 64, 0, Stream.REPLAY, 1))
    context = replace(bench.context(behavior, run), frozen={"behavior": behavior, "base": base})
    new, old, known = (agrpo.step_log_prob(model, batch).detach() for model in (policy, behavior, base))
    ratio, advantage = (new - old).exp(), batch.weight[:, 0]
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    wanted = 0.3 * ratio * ((known - new).exp() - (known - new) - 1) - surrogate
    torch.testing.assert_close(plugin(run).loss(policy, batch, context).detach(), wanted)


def test_the_penalty_times_the_ratio_is_the_kl_to_the_base():
    """Its mean over samples of the behavior policy, and the gradient of that, wherever the policy is."""
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    policy, behavior, base = (row.clone() for row in logits.log_softmax(1))
    policy.requires_grad_()
    frozen = {"behavior": behavior, "base": base}
    context = SimpleNamespace(algorithm=Agrpo(name="agrpo", beta=0.3), frozen=frozen)
    loss = surrogate_loss(policy, lambda row: row.log_softmax(0), torch.zeros(5), context, weighted_penalty=True)
    kl = (policy.softmax(0) * (policy.log_softmax(0) - base)).sum()
    found, wanted = (behavior.exp() * loss).sum(), 0.3 * kl
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(one, policy)[0] for one in (found, wanted)))


def test_an_advantage_of_zero_beside_an_infinite_ratio_is_zero():
    surrogate = clipped_surrogate(torch.tensor([1e4, 1e4, -1e4]), torch.tensor([0.0, 1.0, 1.0]), 0.2)
    assert surrogate.tolist() == pytest.approx([0.0, 1.2, 0.0])
