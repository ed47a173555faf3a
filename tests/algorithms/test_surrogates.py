"""The policy gradients' ratio ρ = p_θ / p_old: 1, and nothing clipped, until the round's first update has been made."""

import pytest
import torch

from pipeline.algorithms import agrpo, coupled_grpo, diffu_grpo
from pipeline.objectives.context import LossContext
from pipeline.runtime.random_streams import Stream
from pipeline.settings.algorithms import SETTINGS
from pipeline.settings.sections import Rollout, Train
from pipeline.training.adamw import AdamW
from pipeline.training.loop import Progress, fit
from pipeline.training.replay_buffer import Batch, Replay
from tests.conftest import llada, task_of

MASK, GROUPS, COMPLETIONS, LENGTH = 8, 8, 4, 5
COUPLED = SETTINGS["coupled_grpo"](name="coupled_grpo")
SEEN = {
    "diffu_grpo": (diffu_grpo, lambda model, batch: diffu_grpo.one_step_log_prob(model, batch, 0.15, MASK)),
    "coupled_grpo": (coupled_grpo, lambda model, batch: coupled_grpo.coupled_log_prob(model, batch, COUPLED, MASK)),
    "agrpo": (agrpo, lambda model, batch: agrpo.step_log_prob(model, batch, MASK)),
}


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
    progress = Progress(tmp_path / "progress", "key")
    key = {"seed": 0, "round_": 1}
    fit(policy, AdamW(policy, train), batches, loss, lambda _: train.lr, train, progress, **key, updates=3, title=name)
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
