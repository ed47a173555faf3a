"""Models that see block by block: with a cache their law is the same; and families that predict tokens early."""

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.models.block_cache import next_cache
from pipeline.runtime.random_streams import Stream
from pipeline.samplers.ancestral import Trajectories, path_log_prob, rollout
from pipeline.samplers.low_confidence import decode
from pipeline.samplers.unmasking_order import blocks
from pipeline.text.tokenizer import PADDING
from pipeline.training.replay_buffer import Replay
from pipeline.training.throughput import Meter
from tests.conftest import of_family

VOCABULARY, MASK, LENGTH, BLOCK = 9, 8, 11, 4


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return of_family("sdar", VOCABULARY, MASK, block_length=BLOCK)


def draw(
    model: torch.nn.Module, prompt: int, *, remasked: bool = False, **settings: object
) -> tuple[torch.Tensor, torch.Tensor, Trajectories]:
    """(prompts, starting states, trajectories) of 12 rows; some starting states show whole blocks."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(8, (12, prompt), generator=generator)
    start = torch.full((12, LENGTH), MASK)
    if remasked:
        shown = torch.rand(12, LENGTH, generator=generator) < torch.rand(12, 1, generator=generator)
        shown[2:5, 3:7], shown[5:7, :7], shown[7, :] = True, True, True
        start = torch.where(shown, torch.randint(8, (12, LENGTH), generator=generator), start)
    noise = torch.rand(2, 12, LENGTH, dtype=torch.float64, generator=generator)
    noises = {"order_noise": noise[0], "token_noise": noise[1]}
    return prompts, start, rollout(model, prompts, start, mask_id=MASK, block_length=BLOCK, **noises, **settings)


@pytest.mark.facts
@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("tokens_per_step", [1, 3])
@pytest.mark.parametrize("prompt", [3, 4, 1])
@pytest.mark.parametrize("remasked", [False, True])
def test_the_law_with_a_cache_is_the_law(model, order, tokens_per_step, prompt, remasked):
    """Whether or not the prompt ends with a block; rows of which some blocks are already shown too."""
    settings = {"order": order, "tokens_per_step": tokens_per_step, "remasked": remasked}
    prompts, start, cached = draw(model, prompt, cache="block", **settings)
    plain = draw(model, prompt, **settings)[2]
    assert torch.equal(cached.tokens, plain.tokens) and torch.equal(cached.unmask_step, plain.unmask_step)
    assert (cached.log_prob[start == MASK] < 0).all()
    torch.testing.assert_close(cached.log_prob, plain.log_prob, rtol=0, atol=1e-5)
    for states, blocks_of_replay in ((2, BLOCK), (1000, BLOCK), (1000, None)):
        replay = {"mask_id": MASK, "states_per_batch": states, "cached_blocks": blocks_of_replay}
        again = path_log_prob(model, prompts, cached, **replay)
        torch.testing.assert_close(again, cached.log_prob, rtol=0, atol=1e-5)


def test_greedy_decoding_with_a_cache(model):
    prompts, start, _ = draw(model, 6, remasked=True)
    for tokens_per_step in (1, 2):
        settings = {"mask_id": MASK, "tokens_per_step": tokens_per_step, "block_length": BLOCK}
        found = [decode(model, prompts, start, cache=cache, **settings) for cache in (None, "block")]
        assert torch.equal(*found) and not (found[0] == MASK).any()


def test_blocks_are_those_that_the_model_sees(model):
    """The first block of an answer is what the prompt leaves of its last one, and it is revealed first."""
    for prompt, sizes in ((4, [4, 4, 3]), (5, [3, 4, 4]), (7, [1, 4, 4, 2])):
        steps = draw(model, prompt)[2].unmask_step
        ends = torch.tensor(sizes).cumsum(0)
        for row in steps:
            assert [set(part.tolist()) for part in row.split(sizes)] == [
                set(range(end - size, end)) for end, size in zip(ends.tolist(), sizes, strict=True)
            ]
    assert blocks(3, 4, 1) == [slice(0, 3)] and blocks(3, 4, 2) == [slice(0, 2), slice(2, 3)]


def test_other_blocks_are_refused(model):
    start, noise = torch.full((2, LENGTH), MASK), torch.rand(2, LENGTH, dtype=torch.float64)
    prompt = torch.zeros(2, 3, dtype=torch.long)
    settings = {"mask_id": MASK, "order_noise": noise, "token_noise": noise}
    with pytest.raises(PipelineError, match="block_length 8: this model sees blocks of 4, so it must be 4"):
        rollout(model, prompt, start, block_length=8, **settings)
    prompt[0, 0] = PADDING
    with pytest.raises(PipelineError, match="answers prompts of one length at a time"):
        rollout(model, prompt, start, block_length=BLOCK, **settings)


@pytest.mark.parametrize("tokens_per_step", [1, 2])
def test_positions_that_are_computed(model, tokens_per_step):
    """Prompt and answer once, and each block again for every further step and once in its final form."""
    prompt, start = torch.zeros(1, 8, dtype=torch.long), torch.full((1, 16), MASK)
    noise = torch.rand(2, 1, 16, dtype=torch.float64)
    settings = {"mask_id": MASK, "order_noise": noise[0], "token_noise": noise[1], "tokens_per_step": tokens_per_step}
    positions = {}
    for cache in (None, "block"):
        with Meter(model) as meter:
            rollout(model, prompt, start, block_length=BLOCK, cache=cache, **settings)
        positions[cache] = meter.positions
    steps = BLOCK // tokens_per_step
    assert positions[None] == 4 * steps * (8 + 16)
    assert positions["block"] == 8 + 16 + 3 * BLOCK + 4 * (steps - 1) * BLOCK
    assert meter.flops > 0


def test_training_states_have_a_clean_prefix(model):
    """In the blocks that the model sees, whatever the lengths of the prompts in a batch."""
    prompt = torch.zeros(64, 6, dtype=torch.long)
    for row in range(64):
        prompt[row, : row % 4] = PADDING
    answers = torch.randint(8, (64, LENGTH), generator=torch.Generator().manual_seed(0))
    replay = Replay.of_texts(prompt, answers, MASK)
    replay = Replay(**{**vars(replay), "block_length": BLOCK, "blocks_from_prompt": True})
    (batch,) = replay.batches(1, 256, 0, Stream.REPLAY, 1)
    offset = (batch.prompt != PADDING).sum(dim=1) % BLOCK
    assert set(offset.tolist()) == {0, 1, 2, 3}
    for row in range(256):
        block, masked = (torch.arange(LENGTH) + offset[row]) // BLOCK, batch.state[row] == MASK
        active = block[batch.loss_positions[row, 0]].unique()
        assert len(active) == 1
        assert not masked[block < active].any() and masked[block > active].all()
        assert torch.equal(batch.loss_positions[row, 0], masked & (block == active))


def test_a_block_that_was_never_passed(model):
    """Its tokens are passed with the next block, for every row."""
    first = next_cache(model, slice(4, 8))
    second = next_cache(model, slice(8, 12), first)
    assert not second.filled and second.positions == slice(0, 12)
    with torch.no_grad():
        model(input_ids=torch.zeros(2, 12, dtype=torch.long), cache=second)
    third = next_cache(model, slice(12, 16), second)
    assert second.positions == slice(8, 12) and third.positions == slice(8, 16)


@pytest.mark.facts
@pytest.mark.parametrize("order", ["random", "confidence"])
def test_a_model_that_predicts_a_token_early(order):
    """Dream: recorded is replayed with the approximate cache, and without it; with a fresh cache at every step the two
    laws are one, which the position before a block needs."""
    model = of_family("dream", VOCABULARY, MASK)
    prompts, _, paths = draw(model, 3, order=order, cache="block", tokens_per_step=2)
    again = path_log_prob(model, prompts, paths, mask_id=MASK, cached_blocks=BLOCK)
    torch.testing.assert_close(again, paths.log_prob, rtol=0, atol=1e-5)
    assert (path_log_prob(model, prompts, paths, mask_id=MASK) - again).abs().max() > 0.01
    found = [draw(model, 3, order=order, cache=cache, tokens_per_step=BLOCK)[2] for cache in (None, "block")]
    assert torch.equal(found[0].tokens, found[1].tokens)
    torch.testing.assert_close(found[0].log_prob, found[1].log_prob, rtol=0, atol=1e-5)
