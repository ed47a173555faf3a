"""The moving average of the weights: its formula, and that it survives a kill."""

import pytest
import torch

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
