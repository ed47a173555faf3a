"""Rollouts: their law, the recorded log-probabilities, and independence from the batch."""

import pytest
import torch

from pipeline.ctmc.masking import REVEALED
from pipeline.samplers.ancestral import inverse_cdf, path_log_prob, rollout
from tests.conftest import llada

VOCABULARY, MASK, LENGTH = 9, 8, 6


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return llada(VOCABULARY, MASK)


def draw(model, count, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(8, (count, 4), generator=generator)
    start = torch.full((count, LENGTH), MASK)
    start[1::2, 2] = 3  # every other row starts from a partly revealed state
    noise = torch.rand(2, count, LENGTH, dtype=torch.float64, generator=generator)
    noise = {"order_noise": noise[0], "token_noise": noise[1]}
    return prompt, start, noise, rollout(model, prompt, start, mask_id=MASK, **noise, **settings)


@pytest.mark.facts
@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("tokens_per_step", [1, 2, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_log_prob_equals_teacher_forcing(model, order, tokens_per_step, temperature):
    settings = {"order": order, "tokens_per_step": tokens_per_step, "temperature": temperature}
    prompt, start, _, paths = draw(model, 30, **settings)
    assert not (paths.tokens == MASK).any()
    for states_per_batch in (7, 1000):
        again = path_log_prob(
            model, prompt, paths, mask_id=MASK, temperature=temperature, states_per_batch=states_per_batch
        )
        assert (again - paths.log_prob).abs().max() < 1e-4
    shown = start != MASK
    assert (paths.unmask_step[shown] == REVEALED).all() and (paths.log_prob[shown] == 0).all()
    assert (paths.log_prob[~shown] < 0).all()
    largest = torch.stack([(paths.unmask_step == step).sum(dim=1) for step in range(LENGTH)]).max()
    assert largest == tokens_per_step


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("tokens_per_step", [1, 2])
def test_blocks_are_revealed_from_left_to_right(model, order, tokens_per_step):
    settings = {"order": order, "tokens_per_step": tokens_per_step, "block_length": 4}
    prompt, start, _, paths = draw(model, 30, **settings)
    again = path_log_prob(model, prompt, paths, mask_id=MASK)
    assert (again - paths.log_prob).abs().max() < 1e-4
    for row, step in zip(start, paths.unmask_step, strict=True):
        expected = 0
        for block in (slice(0, 4), slice(4, LENGTH)):
            here = step[block][row[block] == MASK]
            steps = -(-len(here) // tokens_per_step)
            assert set(here.tolist()) == set(range(expected, expected + steps))
            expected += steps
    whole, one = (draw(model, 30, order=order, block_length=length)[3] for length in (None, LENGTH))
    assert torch.equal(whole.tokens, one.tokens) and torch.equal(whole.log_prob, one.log_prob)


@pytest.mark.facts
@pytest.mark.parametrize("order", ["random", "confidence"])
def test_a_row_depends_on_its_own_noise_only(model, order):
    prompt, start, noise, paths = draw(model, 30, order=order, tokens_per_step=2)
    for rows in (slice(3, 4), slice(10, 27)):
        own = {name: values[rows] for name, values in noise.items()}
        alone = rollout(model, prompt[rows], start[rows], mask_id=MASK, order=order, tokens_per_step=2, **own)
        assert torch.equal(alone.tokens, paths.tokens[rows])
        assert torch.equal(alone.unmask_step, paths.unmask_step[rows])


def test_first_tokens_follow_the_posterior(model):
    """The frequencies of the first of two tokens that are revealed, against p(v | x_0, i)."""
    count, length = 40_000, 2
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(2, count, length, dtype=torch.float64, generator=generator)
    noise[0, :, 0] = -1.0  # position 0 first
    prompt, start = torch.zeros(count, 4, dtype=torch.long), torch.full((count, length), MASK)
    with torch.no_grad():
        everything = torch.cat([prompt[:1], start[:1]], dim=1)
        exact = model(input_ids=everything).logits[0, 4].softmax(dim=0)
    tokens = rollout(model, prompt, start, mask_id=MASK, order_noise=noise[0], token_noise=noise[1]).tokens[:, 0]
    frequency = torch.bincount(tokens, minlength=VOCABULARY) / count
    assert ((frequency - exact).abs() < 5 * (exact * (1 - exact) / count).sqrt() + 1e-9).all()


def test_inverse_cdf_never_draws_a_token_without_mass():
    log_prob = torch.tensor([[0.5, 0.0, 0.5, 0.0]]).log().expand(4, 4)
    uniform = torch.tensor([0.0, 0.499999, 0.5, 1.0 - 2**-53], dtype=torch.float64)
    assert inverse_cdf(log_prob, uniform[:, None])[:, 0].tolist() == [0, 0, 2, 2]
