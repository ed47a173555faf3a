"""AdamW: master copies of bfloat16 weights; the moving average, its formula and that it survives a kill."""

import copy

import pytest
import torch

from pipeline.models.policy_directory import cast_weights
from pipeline.settings.sections import Train
from pipeline.training.adamw import AdamW, optimizer_state, set_optimizer_state
from tests.conftest import llada


def step(model: torch.nn.Module, optimizer: AdamW, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=generator).to(value.dtype)
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_policy_of_a_round_is_the_average_of_its_weights(dtype):
    model = llada(9, 8).to(dtype)
    optimizer = AdamW(model, Train(lr=0.05), ema=0.8)
    wanted = {name: master.detach().clone() for name, master in optimizer.masters.items()}
    for seed in range(4):
        step(model, optimizer, seed)
        wanted = {name: 0.8 * value + 0.2 * optimizer.masters[name] for name, value in wanted.items()}
    optimizer.take_averages()
    for name, value in optimizer.trained.items():
        torch.testing.assert_close(value, wanted[name].to(dtype))


def test_a_restored_optimizer_goes_on_with_its_average():
    straight, killed = llada(9, 8), llada(9, 8)
    whole, first = AdamW(straight, Train(lr=0.05), ema=0.8), AdamW(killed, Train(lr=0.05), ema=0.8)
    for seed in range(4):
        step(straight, whole, seed)
    for seed in range(2):
        step(killed, first, seed)
    state, resumed = optimizer_state(first), AdamW(killed, Train(lr=0.05), ema=0.8)
    set_optimizer_state(resumed, state, None)
    for seed in range(2, 4):
        step(killed, resumed, seed)
    for optimizer in (whole, resumed):
        optimizer.take_averages()
    assert all(torch.equal(value, whole.trained[name]) for name, value in resumed.trained.items())


def test_a_parameter_without_gradient_stays_and_is_saved():
    """Such as an embedding that no row of the round used."""
    models = [llada(9, 8) for _ in range(2)]
    state: dict[str, torch.Tensor] = {}
    for model in models:
        kept = model.lm_head.weight.detach().clone()
        optimizer = AdamW(model, Train(lr=0.05))
        if state:
            set_optimizer_state(optimizer, state, None)
        for name, value in model.named_parameters():
            value.grad = None if name == "lm_head.weight" else torch.ones_like(value)
        optimizer.step()
        state = optimizer_state(optimizer)
        assert torch.equal(model.lm_head.weight, kept)
        assert (state["step.lm_head.weight"], state["exp_avg.lm_head.weight"].count_nonzero()) == (0, 0)
    assert state["step.model.norm.weight"] == 2


def test_master_copies_keep_steps_that_bfloat16_would_lose():
    model = cast_weights(llada(9, 8), "bfloat16")
    exact = cast_weights(copy.deepcopy(model), "float32")
    settings = Train(lr=1e-5, weight_decay=0.0)
    optimizers = {one: AdamW(one, settings) for one in (model, exact)}
    for _ in range(20):
        gradient = torch.Generator().manual_seed(1)
        for value, same in zip(model.parameters(), exact.parameters(), strict=True):
            same.grad = torch.randn(same.shape, generator=gradient).bfloat16().float()
            value.grad = same.grad.bfloat16()
        for optimizer in optimizers.values():
            optimizer.step()
        assert all(value.grad is None for value in model.parameters())  # one gradient at a time takes memory
        for optimizer in optimizers.values():
            optimizer.zero_grad()
    for name, value in optimizers[exact].masters.items():
        torch.testing.assert_close(optimizers[model].masters[name], value)
        assert torch.equal(optimizers[model].trained[name], value.bfloat16())
