"""The formulas against PyTorch's own counting, the models' tensors and what is published about LLaDA-8B."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import adapters, masked_lm
from pipeline.models.base import recompute_layers
from pipeline.models.flops import Shape, peak
from pipeline.samplers.ancestral import path_log_prob, rollout
from pipeline.settings.sections import Adapter
from pipeline.training.throughput import Meter
from tests.conftest import llada
from tests.models import encoders
from tests.models.hub import LLADA_8B

ROWS, LENGTH = 4, 48
SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6}


def counted(model: nn.Module, meter: Meter, *, backward: bool) -> int:
    """Operations as PyTorch counts them, of a pass that the meter sees too; attention in plain products."""
    ids = torch.randint(100, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, meter:
        with torch.set_grad_enabled(backward):
            logits = model(input_ids=ids, select=ids % 2 == 0).logits
        if backward:
            logits[:, :50].sum().backward()
    return counter.get_total_flops()


def test_forward():
    model = llada(101, 100, **SIZES)
    meter = Meter(model)
    assert counted(model, meter, backward=False) == meter.flops > 0
    assert meter.positions == ROWS * LENGTH


def test_block_cache():
    """Rollouts with a cache and their replay, padded or not, as PyTorch counts them."""
    model, prompt = llada(101, 100, **SIZES), torch.randint(100, (ROWS, 16))
    noise = torch.rand(2, ROWS, 32, dtype=torch.float64)
    start = torch.full((ROWS, 32), 100)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, Meter(model) as meter:
        settings = {"tokens_per_step": 2, "block_length": 8, "cache": "block"}
        paths = rollout(model, prompt, start, mask_id=100, order_noise=noise[0], token_noise=noise[1], **settings)
        sampled = meter.flops
        path_log_prob(model, prompt, paths, mask_id=100, cached_blocks=8)
    assert counter.get_total_flops() == meter.flops == 2 * sampled
    whole, block = meter.shape.forward(ROWS, 48, 0), meter.shape.forward(ROWS, 8, 0, keys=48)
    assert sampled == 4 * whole + 12 * block + meter.shape.forward(0, 0, ROWS * 32)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_training(lora, checkpointing, tmp_path):
    """Exact where all weights train. A frozen first block's inputs need no gradient, some 5 % of so small a model."""
    model = llada(101, 100, **SIZES).train()
    if lora:
        adapters.train(model, Adapter(rank=8, dropout=0.0), tmp_path / "base", tmp_path / "out")
    if checkpointing:
        recompute_layers(model)
    meter = Meter(model, recompute=checkpointing)
    assert counted(model, meter, backward=True) == pytest.approx(meter.flops, rel=0.06 if lora else 0)


def test_sizes():
    """P of real modules, from their own configuration."""
    for tied in (False, True):
        model = llada(101, 100, **SIZES)
        if tied:
            model.lm_head.weight = model.model.embed_tokens.weight
        shape = Shape.of({**model.config.to_dict(), "tie_word_embeddings": tied})
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_llada_8b():
    """Its 8,015,581,184 parameters, the 336 M of d1's adapters; 0.89 PFLOP for 256 tokens in 128 steps."""
    assert LLADA_8B.parameters == 8_015_581_184
    assert LLADA_8B.adapters(Adapter()) == pytest.approx(336e6, rel=0.005)
    everywhere = LLADA_8B.forward(128, 456, 128 * 456)
    assert everywhere == pytest.approx(0.89e15, rel=0.01)
    assert everywhere / LLADA_8B.forward(128, 456, 256) == pytest.approx(1.07, abs=0.005)


def test_hub_names_and_grouped_heads():
    config = {"d_model": 4096, "mlp_hidden_size": 12288, "n_layers": 32, "n_heads": 32, "vocab_size": 126464}
    assert Shape.of(config) == LLADA_8B
    assert LLADA_8B.parameters - Shape.of({**config, "n_kv_heads": 8}).parameters == 32 * 2 * 4096 * 3072


def test_a_model_with_other_keys_has_no_known_shape():
    """Such as one of a user's own: its operations are not counted."""
    known = llada(101, 100, **SIZES)
    assert Shape.of_module(known) == Shape.of(known.config.to_dict())
    other = SimpleNamespace(config=SimpleNamespace(to_dict=lambda: {"n_embd": 64}))
    assert Shape.of_module(other) is None and Shape.of_module(object()) is None


def test_peak():
    assert peak("NVIDIA H100 80GB HBM3") == 989e12
    assert peak("") is None


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert", "roberta"])
def test_encoders(kind, tmp_path):
    """Masked language models: the special tokens, and the square matrix of their heads, are not counted."""
    model = masked_lm.load(
        encoders.write(tmp_path, kind, hidden_size=64, intermediate_size=160)
        if kind != "distilbert"
        else encoders.write(tmp_path, kind, dim=64, hidden_dim=160)
    )
    ids = torch.randint(4, 9, (ROWS, 28), generator=torch.Generator().manual_seed(0))
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        Meter(model) as meter,
        torch.no_grad(),
    ):
        model(input_ids=ids, select=ids % 2 == 0)
    heads = 2 * 64 * 64 * int((ids % 2 == 0).sum())
    framed = meter.shape.forward(ROWS, 30, int((ids % 2 == 0).sum())) + heads
    assert counter.get_total_flops() == pytest.approx(framed, rel=0.02)
    assert meter.flops == pytest.approx(framed, rel=0.15)
