"""Rollouts with a block cache: their law, recorded and replayed, and where it is the law without one."""

import pytest
import torch
from torch._dynamo.utils import counters
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from pipeline.ctmc.masking import state_before
from pipeline.samplers.ancestral import path_log_prob, rollout
from pipeline.samplers.low_confidence import decode
from pipeline.text.tokenizer import PADDING
from tests.conftest import llada

VOCABULARY, MASK, LENGTH = 9, 8, 10
BLOCK = 4  # the last block has two positions


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return llada(VOCABULARY, MASK)


def draw(model, count, *, padded=False, remasked=False, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(8, (count, 5), generator=generator)
    if padded:
        prompt[::3, :2] = PADDING
        prompt[1::3, :1] = PADDING
    start = torch.full((count, LENGTH), MASK)
    if remasked:  # rows with empty, partly and wholly revealed blocks
        shown = torch.rand(count, LENGTH, generator=generator) < torch.rand(count, 1, generator=generator)
        start = torch.where(shown, torch.randint(8, (count, LENGTH), generator=generator), start)
        start[2] = torch.arange(LENGTH) % 8
    noise = torch.rand(2, count, LENGTH, dtype=torch.float64, generator=generator)
    noise = {"order_noise": noise[0], "token_noise": noise[1]}
    return prompt, start, noise, rollout(model, prompt, start, mask_id=MASK, **noise, **settings)


@pytest.mark.facts
@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("tokens_per_step", [1, 3])
@pytest.mark.parametrize(
    ("padded", "remasked", "temperature"), [(False, False, 0.7), (True, False, 1.0), (True, True, 1.0)]
)
def test_recorded_equals_replayed(model, order, tokens_per_step, padded, remasked, temperature):
    settings = {"order": order, "tokens_per_step": tokens_per_step, "block_length": BLOCK, "temperature": temperature}
    prompt, start, _, paths = draw(model, 30, padded=padded, remasked=remasked, cache="block", **settings)
    assert not (paths.tokens == MASK).any()
    assert torch.equal(paths.tokens[start != MASK], start[start != MASK])
    assert (paths.log_prob[start == MASK] < 0).all() and (paths.log_prob[start != MASK] == 0).all()
    replay = {"mask_id": MASK, "temperature": temperature}
    for states in (3, 1000):
        again = path_log_prob(model, prompt, paths, **replay, states_per_batch=states, cached_blocks=BLOCK)
        assert (again - paths.log_prob).abs().max() < 1e-4
    assert (path_log_prob(model, prompt, paths, **replay) - paths.log_prob).abs().max() > 0.05  # the laws differ


@pytest.mark.facts
@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("block_length", "tokens_per_step"),
    [(1, 1), (3, 3), (LENGTH, LENGTH)],
    ids=["each token", "each 3 tokens", "a single step"],
)
def test_refreshed_at_every_step_it_is_the_sampler_without_a_cache(model, order, padded, block_length, tokens_per_step):
    settings = {"order": order, "tokens_per_step": tokens_per_step, "block_length": block_length, "padded": padded}
    prompt, _, _, cached = draw(model, 20, cache="block", **settings)
    plain = draw(model, 20, **settings)[3]
    for name in ("tokens", "unmask_step", "log_prob"):
        assert torch.equal(getattr(cached, name), getattr(plain, name)), name
    again = [path_log_prob(model, prompt, cached, mask_id=MASK, cached_blocks=size) for size in (None, block_length)]
    torch.testing.assert_close(*again, rtol=0, atol=1e-5)


@torch.no_grad()
def plain_log_posterior(model, prompt, at_start, state, block):
    """log p̃(v | x_b, x_s, ·) at a block's positions, one row, in plain products: keys and values of two whole passes,
    the block's own from the pass over x_s."""
    network, heads = model.model, model.config.num_attention_heads
    inside = torch.arange(len(prompt), len(prompt) + len(state))[block]
    positions = torch.arange(len(prompt) + len(state))[None]
    old, new = (network.embed_tokens(torch.cat([prompt, answer])[None]) for answer in (at_start, state))
    cos, sin = network.rotary_emb(old, positions)

    def split(values):
        return values.view(1, values.shape[1], heads, -1).transpose(1, 2)

    for layer in network.layers:
        own = layer.self_attn
        normed = [layer.input_layernorm(hidden) for hidden in (old, new)]
        rotated = [apply_rotary_pos_emb(split(own.q_proj(x)), split(own.k_proj(x)), cos, sin) for x in normed]
        (query, key), (fresh_query, fresh_key) = rotated
        value, fresh_value = (split(own.v_proj(x)) for x in normed)
        mixed_key, mixed_value = key.clone(), value.clone()
        mixed_key[:, :, inside], mixed_value[:, :, inside] = fresh_key[:, :, inside], fresh_value[:, :, inside]
        out = []
        passes = (old, query, key, value), (new, fresh_query, mixed_key, mixed_value)
        for hidden, q, k, v in passes:
            weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1)
            attended = hidden + own.o_proj((weights @ v).transpose(1, 2).flatten(2))
            out.append(attended + layer.mlp(layer.post_attention_layernorm(attended)))
        old, new = out
    logits = model.lm_head(network.norm(new[0, inside]))
    logits[:, MASK] = -torch.inf
    return logits.log_softmax(dim=-1)


@pytest.mark.facts
def test_the_law_is_that_of_the_two_states(model):
    """Recorded log-probabilities against p̃(v | x_b, x_s, i) in plain products."""
    prompt, _, _, paths = draw(model, 6, cache="block", block_length=BLOCK, tokens_per_step=2)
    for row in range(len(prompt)):
        tokens, steps = paths.tokens[row], paths.unmask_step[row]
        for first in range(0, LENGTH, BLOCK):
            block = slice(first, min(first + BLOCK, LENGTH))
            at_start = state_before(tokens, steps, int(steps[block].min()), MASK)
            for step in steps[block].unique().tolist():
                state = state_before(tokens, steps, step, MASK)
                exact = plain_log_posterior(model, prompt[row], at_start, state, block)
                here = (steps[block] == step).nonzero()[:, 0]
                wanted = exact[here, tokens[block][here]]
                torch.testing.assert_close(paths.log_prob[row, block][here], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_a_row_depends_on_its_own_noise_only(model, order):
    settings = {"order": order, "tokens_per_step": 2, "block_length": BLOCK, "cache": "block"}
    prompt, start, noise, paths = draw(model, 30, remasked=True, **settings)
    for rows in (slice(3, 4), slice(10, 27)):
        own = {name: values[rows] for name, values in noise.items()}
        alone = rollout(model, prompt[rows], start[rows], mask_id=MASK, **own, **settings)
        assert torch.equal(alone.tokens, paths.tokens[rows])
        assert torch.equal(alone.unmask_step, paths.unmask_step[rows])


def test_compiled_layers_share_their_graphs():
    """One for whole passes and two for blocks, the second for every place of a block, however many layers."""
    torch._dynamo.reset()
    counters.clear()
    model, settings = llada(VOCABULARY, MASK, num_hidden_layers=5), {"cache": "block", "block_length": 2}
    eager = draw(model, 4, **settings)[3]
    for layer in model.model.layers:
        layer.compile(backend="eager")
    assert torch.equal(draw(model, 4, **settings)[3].tokens, eager.tokens)
    assert counters["stats"]["unique_graphs"] == 3 and not counters["graph_break"]


@pytest.mark.parametrize("tokens_per_step", [1, 2])
def test_greedy_decoding(model, tokens_per_step):
    """Against a plain implementation, one row at a time."""
    prompt = torch.randint(8, (5, 4), generator=torch.Generator().manual_seed(0))
    settings = {"mask_id": MASK, "tokens_per_step": tokens_per_step, "cache": "block"}
    start = torch.full((len(prompt), LENGTH), MASK)
    answers = decode(model, prompt, start, block_length=BLOCK, **settings)
    for row, got in zip(prompt, answers, strict=True):
        x = torch.full((LENGTH,), MASK)
        for first in range(0, LENGTH, BLOCK):
            block, at_start = slice(first, min(first + BLOCK, LENGTH)), x.clone()
            while (x[block] == MASK).any():
                confidence, proposal = plain_log_posterior(model, row, at_start, x, block).max(dim=1)
                masked = x[block] == MASK
                count = min(tokens_per_step, int(masked.sum()))
                keep = confidence.masked_fill(~masked, -torch.inf).topk(count).indices
                x[block][keep] = proposal[keep]
        assert torch.equal(x, got)
