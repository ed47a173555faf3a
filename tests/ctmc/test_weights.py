"""Self-normalised importance weights: the facts that hold for any policy."""

import pytest
import torch

from pipeline.ctmc.weights import effective_sample_size, largest_step, log_weights, self_normalized


def test_weights_have_mean_one_and_ignore_constants():
    log_weight = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = self_normalized(log_weight)
    torch.testing.assert_close(weight.mean(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(self_normalized(log_weight + 300.0), weight)


def test_equal_log_weights_give_one_and_full_ess():
    """policy = base and r = 0, or policy = optimum: every W_k = 1."""
    weight = self_normalized(torch.full((2, 8), -3.0))
    assert torch.equal(weight, torch.ones(2, 8))
    assert torch.equal(effective_sample_size(weight), torch.full((2,), 8.0))


def test_ess_of_one_dominant_weight_is_one():
    weight = self_normalized(torch.tensor([[500.0, 0.0, 0.0, 0.0]]))
    assert effective_sample_size(weight).item() == pytest.approx(1.0)


def test_optimal_policy_has_constant_log_weights():
    """p* ∝ base · e^{r/α} ⇒ ℓ = log base - log p* + r/α = log Z for every completion."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(1, 50, dtype=torch.float64, generator=generator).log_softmax(1)
    reward = torch.rand(1, 50, dtype=torch.float64, generator=generator)
    optimum = (base + reward / 0.1).log_softmax(1)
    assert log_weights(base - optimum, reward, 1 / 0.1).std() < 1e-12


def test_bias_of_the_estimated_target_falls_like_one_over_k():
    """Bias of (1/K) Σ_k W_k 1[y_k = y], the self-normalised estimate, has slope -1 ± 0.2 in log-log."""
    generator = torch.Generator().manual_seed(0)
    base = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reward = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    target = (base.log() + reward).softmax(0)[2]
    sizes, biases = [4, 8, 16, 32], []
    for size in sizes:
        drawn = torch.multinomial(base.expand(2_000_000 // size * 4, 3), size, replacement=True, generator=generator)
        weight = self_normalized(log_weights(torch.zeros(drawn.shape, dtype=torch.float64), reward[drawn], 1.0))
        biases.append(((weight * (drawn == 2)).mean(dim=1).mean() - target).abs())
    slope = torch.log(biases[-1] / biases[0]) / torch.log(torch.tensor(sizes[-1] / sizes[0]))
    assert -1.2 < slope.item() < -0.8, biases


def test_the_step_reaches_the_wanted_ess_and_settled_groups_do_not_vote():
    generator = torch.Generator().manual_seed(0)
    reward = torch.cat([torch.rand(20, 16, generator=generator), torch.ones(80, 16)]).double()
    votes = reward.amax(dim=1) > reward.amin(dim=1)
    step = largest_step(lambda step: step * reward, votes, share=0.5, largest=1000.0)
    weight = self_normalized(step * reward[:20])
    assert effective_sample_size(weight).mean().item() == pytest.approx(8.0, abs=1e-3)
    assert largest_step(lambda step: step * reward, votes, 0.5, largest=0.5) == 0.5


def test_a_step_is_found_where_the_ess_is_small_from_the_start():
    """Log weights that do not vanish at 0: the share is of the ESS there."""
    generator = torch.Generator().manual_seed(0)
    ratio, reward = torch.randn(2, 50, 16, generator=generator, dtype=torch.float64)
    every = torch.ones(50, dtype=torch.bool)
    before = effective_sample_size(self_normalized(3 * ratio)).mean()
    assert before < 8
    step = largest_step(lambda step: 3 * ratio + step * reward, every, share=0.9, largest=100.0)
    after = effective_sample_size(self_normalized(3 * ratio + step * reward)).mean()
    assert step > 0 and after.item() == pytest.approx(0.9 * before.item(), rel=1e-3)
