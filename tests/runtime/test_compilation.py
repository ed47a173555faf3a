"""Compiled blocks compute what blocks do, for every size, policy and mode that training needs."""

import shutil
from pathlib import Path

import torch

from pipeline.models import adapters
from pipeline.models.llada import PLUGIN
from pipeline.models.policy_directory import load_frozen, make_trainable
from pipeline.models.row_dropout import draw_masks
from pipeline.runtime.compilation import compile_blocks, compiles
from pipeline.settings.sections import Adapter, Train
from tests.conftest import llada as tiny


def policies(base: Path, backend: str | None, dropout: float = 0.0) -> list[torch.nn.Module]:
    """A policy with adapters that trains, compiled or not, and the base beside it."""
    model = PLUGIN.load(base)
    section = Train(adapter=Adapter(rank=4, alpha=8, dropout=dropout), gradient_checkpointing=not dropout)
    make_trainable(model, PLUGIN, section, 0, base, base.parent / "out")
    generator = torch.Generator().manual_seed(0)
    for _, value in adapters.own_parameters(model):
        value.data = torch.randn(value.shape, generator=generator) * 0.1
    compile_blocks(model, backend is not None, backend or "")
    return [model, load_frozen(base, PLUGIN, model, torch.device("cpu"))]


def logits_and_gradients(models: list[torch.nn.Module], tokens: torch.Tensor) -> list[torch.Tensor]:
    """Of a loss that compares policy and base, as several algorithms do."""
    policy, base = models
    draw_masks(policy, 0, 1, 0, range(len(tokens)), 0, torch.device("cpu"))
    policy.train()
    with torch.no_grad():
        known = base(input_ids=tokens).logits[..., :8]
    logits = policy(input_ids=tokens).logits[..., :8]
    (logits - known).square().sum().backward()
    found = [logits, known, *(value.grad for _, value in adapters.own_parameters(policy))]
    policy.zero_grad()
    return found


def test_the_same_numbers(tmp_path):
    """With checkpointing, adapters and a frozen base; two graphs, which serve other batches and lengths too."""
    backend = "inductor" if shutil.which("g++") else "aot_eager"
    PLUGIN.save(tiny(9, 8, num_hidden_layers=1, initializer_range=0.2), tmp_path / "base")
    torch._dynamo.reset()
    compiled, eager = policies(tmp_path / "base", backend), policies(tmp_path / "base", None)
    counts = torch._dynamo.utils.counters["stats"]
    before = counts["unique_graphs"]
    for rows, length in ((3, 6), (5, 6), (4, 9)):
        tokens = torch.randint(8, (rows, length), generator=torch.Generator().manual_seed(rows))
        found, wanted = logits_and_gradients(compiled, tokens), logits_and_gradients(eager, tokens)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert counts["unique_graphs"] - before == 2


def test_masks_of_dropout(tmp_path):
    """As without compilation; besides the base's graph, one of the first block, whose input has no gradient, and one of
    all others."""
    PLUGIN.save(tiny(9, 8, num_hidden_layers=2, initializer_range=0.2), tmp_path / "base")
    torch._dynamo.reset()
    compiled, eager = (policies(tmp_path / "base", backend, dropout=0.3) for backend in ("eager", None))
    counts = torch._dynamo.utils.counters["stats"]
    before = counts["unique_graphs"]
    for rows, length in ((3, 6), (5, 9)):
        tokens = torch.randint(8, (rows, length), generator=torch.Generator().manual_seed(rows))
        found, wanted = logits_and_gradients(compiled, tokens), logits_and_gradients(eager, tokens)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert counts["unique_graphs"] - before == 3


def test_on_gpus_only_unless_asked():
    assert not compiles(False) and compiles(True)
    assert compiles(None) == torch.cuda.is_available()
    model = compile_blocks(tiny(9, 8), False)
    assert all(layer._compiled_call_impl is None for layer in model.model.layers)
