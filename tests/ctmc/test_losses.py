"""The matching loss against the full generalised KL between rates."""

import torch

from pipeline.ctmc.losses import matching_loss


def test_gradient_is_that_of_the_generalised_kl_between_rates():
    """∇ Σ_y [u - w + w log(w/u)] for u = λ/|M| p(v|i), w = λ (1/K) Σ_k W_k mean_i 1[X^(k)_i] is λ ∇L_x."""
    generator = torch.Generator().manual_seed(0)
    positions, values, completions, rate = 3, 4, 5, 2.5
    logits = torch.randn(positions, values, dtype=torch.float64, generator=generator, requires_grad=True)
    tokens = torch.randint(values, (completions, positions), generator=generator)
    weight = torch.rand(completions, dtype=torch.float64, generator=generator)
    weight = weight / weight.mean()
    one_hot = torch.nn.functional.one_hot(tokens, values).double()
    target = rate * (weight[:, None, None] * one_hot).mean(dim=0) / positions
    u = rate * logits.softmax(dim=1) / positions
    exact = (u - target + torch.special.xlogy(target, target) - target * u.log()).sum()
    (wanted,) = torch.autograd.grad(exact, logits)

    log_prob = logits.log_softmax(dim=1)[torch.arange(positions), tokens][None]
    loss = matching_loss(log_prob, weight[None], torch.ones(1, completions, positions, dtype=torch.float64))
    (got,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(rate * got, wanted)


def test_first_jumps_average_to_all_jumps():
    """Averaged over which masked position is revealed first, `jumps: first` is `jumps: all`."""
    log_prob = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([[0.5, 1.5]])
    single = [matching_loss(log_prob, weight, torch.eye(3)[i].expand(1, 2, 3)) for i in range(3)]
    torch.testing.assert_close(torch.stack(single).mean(dim=0), matching_loss(log_prob, weight, torch.ones(1, 2, 3)))
