"""The enumerated two-token space: what must hold for any base, reward and policy."""

import math

import pytest
import torch

from pipeline.ctmc import exact
from pipeline.ctmc.weights import log_weights, self_normalized


def random_joint(values: int, seed: int) -> torch.Tensor:
    logits = torch.randn(values, values, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return logits.flatten().log_softmax(0).view(values, values)


def random_reward(values: int) -> torch.Tensor:
    return 2 * torch.rand(values, values, dtype=torch.float64, generator=torch.Generator().manual_seed(99))


@pytest.mark.facts
@pytest.mark.parametrize("values", [2, 5, 91])
def test_optimal_rate_is_a_probability_and_the_posterior_of_the_optimum(values):
    """Σ_y Q*(y | x) = 1 for each of the 1 + 2M masked states, and Q* belongs to p* ∝ p^base e^{r/α}."""
    base, reward = random_joint(values, 0), random_reward(values)
    optimum = exact.optimal_posteriors(base, -reward / 0.3)
    assert (optimum.exp().sum(dim=-1) - 1).abs().max() < 1e-10
    target = exact.tilted(base, reward, 1 / 0.3)
    torch.testing.assert_close(optimum, exact.posteriors(target), atol=1e-10, rtol=0)
    torch.testing.assert_close(exact.path_law(optimum), target, atol=1e-10, rtol=0)


def test_optimal_rate_needs_order_consistent_posteriors():
    """The check above can fail: the rates of a base that is no joint do not sum to 1 under (2)'s V."""
    base, other, cost = random_joint(5, 0), random_joint(5, 1), -random_reward(5)
    value = exact.values(base, cost)
    rate = exact.posteriors(other) - exact.values_after(value, cost) + value[..., None]
    assert (rate.exp().sum(dim=-1) - 1).abs().max() > 1e-2


def test_value_is_the_log_mean_of_the_tilt_by_brute_force():
    base, cost = random_joint(4, 0), -random_reward(4)
    value, joint, tilt = exact.values(base, cost), base.exp(), (-cost).exp()
    torch.testing.assert_close(value[:, 4], -(joint * tilt).sum().log().expand(2))
    for u in range(4):
        torch.testing.assert_close(value[0, u], -((joint * tilt)[:, u].sum() / joint[:, u].sum()).log())
        torch.testing.assert_close(value[1, u], -((joint * tilt)[u].sum() / joint[u].sum()).log())


@pytest.mark.facts
def test_sampled_adjoints_average_to_the_change_of_value():
    """E_{X_1 ~ p*(·|x)} ã(y; X_1) = e^{-V(y)+V(x)} for all y; under p^u it is off by a factor that x alone decides."""
    base, policy, cost, count = random_joint(5, 0), random_joint(5, 1), -random_reward(5), 200_000
    value = exact.values(base, cost)
    after = exact.values_after(value, cost)[0, 5]
    wanted = (value[0, 5] - after).exp()
    factors = {}
    for name, law in {"optimum": exact.tilted(base, -cost, 1.0), "policy": policy}.items():
        drawn = torch.multinomial(
            law.exp().flatten(), count, replacement=True, generator=torch.Generator().manual_seed(2)
        )
        sampled = (cost.flatten()[drawn, None] - after).exp()  # ã(y; X_1) = Σ_z p^base(z | y) e^{-g(z)+g(X_1)}
        error = sampled.std(dim=0) / count**0.5
        factors[name] = (sampled.mean(dim=0) / wanted, error / wanted)
    mean, error = factors["optimum"]
    assert ((mean - 1).abs() < 5 * error).all()
    mean, error = factors["policy"]
    assert ((mean - 1).abs() > 5 * error).all()
    assert mean.std() < 1e-10


def binomial(count: int, log_p: torch.Tensor) -> torch.Tensor:
    """P(n of `count` draws are the first of two values), n = 0..count."""
    n = torch.arange(count + 1, dtype=torch.float64)
    choose = math.lgamma(count + 1) - torch.lgamma(n + 1) - torch.lgamma(count - n + 1)
    return (choose + n * log_p[0] + (count - n) * log_p[1]).exp()


@pytest.mark.facts
def test_bias_of_the_estimated_target_falls_like_one_over_k():
    """E[(1/K) Σ_k W_k 1[y_k = y]] - Q*(y | x), K = 4 .. 1024, in closed form: the mean over binomial counts."""
    base, policy, reward = random_joint(2, 0), random_joint(2, 1), random_reward(2)
    state = (1, 0)  # the first token shows 0, the second is masked
    q_base, q_policy = exact.posteriors(base)[state], exact.posteriors(policy)[state]
    log_weight = log_weights((q_base - q_policy)[None], reward[:1], 1.0)[0]
    wanted = exact.posteriors(exact.tilted(base, reward, 1.0))[state][0].exp()
    sizes, biases = [4 * 2**k for k in range(9)], []
    for size in sizes:
        first = torch.arange(size)[None, :] < torch.arange(size + 1)[:, None]
        weight = self_normalized(torch.where(first, log_weight[0], log_weight[1]))
        estimate = (weight * first).mean(dim=1)
        biases.append(((binomial(size, q_policy) * estimate).sum() - wanted).abs())
    steps = torch.stack(biases).log2().diff()
    assert steps.mean().item() == pytest.approx(-1, abs=0.2), steps
    assert steps[-1].item() == pytest.approx(-1, abs=0.02), steps


def matching(target: torch.Tensor, logits: torch.Tensor, visits: torch.Tensor) -> torch.Tensor:
    """Σ_x ρ(x) Σ_y [u - w + w log(w/u)](y, x) with u = softmax(logits) and w = Q*."""
    u = logits.log_softmax(-1)
    return (visits * (u.exp() - target.exp() + target.exp() * (target - u)).sum(-1)).sum()


@pytest.mark.facts
def test_exact_loss_is_minimal_at_the_optimal_rate():
    target = exact.optimal_posteriors(random_joint(4, 0), -random_reward(4))
    visits = torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.1
    logits = target.clone().requires_grad_()
    loss = matching(target, logits, visits)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.abs() < 1e-12 and gradient.abs().max() < 1e-12
    for seed in range(5):
        noise = torch.randn(target.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert matching(target, target + 0.1 * noise, visits) > 1e-4


@pytest.mark.facts
def test_kl_splits_by_jump_and_bounds_the_kl_of_the_ends():
    """KL(path) = KL of jump 1 + E KL of jump 2, summed here over all 2M² paths; ≥ KL(p* ‖ p^u)."""
    target, first, second = (random_joint(4, seed) for seed in range(3))
    policy = exact.posteriors(first)
    policy[:, :-1] = exact.posteriors(second)[:, :-1]  # no joint has these posteriors
    total = sum(exact.jump_kl(target, policy))
    optimum = exact.posteriors(target)
    by_order = []
    for i in range(2):  # position i first, then j, which shows v
        j = 1 - i
        p = optimum[i, -1][:, None] + optimum[j, :-1]
        q = policy[i, -1][:, None] + policy[j, :-1]
        by_order.append((p.exp() * (p - q)).sum())
    assert total == pytest.approx(float(sum(by_order) / 2), abs=1e-12)
    ends = float(exact.kl(target.flatten(), exact.path_law(policy).flatten()))
    assert 0 < ends < total
    assert exact.path_law(policy).exp().sum() == pytest.approx(1, abs=1e-12)


def test_path_law_of_a_joint_is_the_joint():
    joint = random_joint(6, 4)
    torch.testing.assert_close(exact.path_law(exact.posteriors(joint)), joint)
    assert exact.kl(joint.flatten(), joint.flatten()) == 0
