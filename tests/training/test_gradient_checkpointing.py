"""Gradient checkpointing is on where the card is too small without it, and the formula is near what was measured."""

import pytest

from pipeline.models.memory import Training
from pipeline.settings.sections import Adapter, Train
from pipeline.training import gradient_checkpointing
from pipeline.training.gradient_checkpointing import decide_checkpointing
from tests.conftest import llada
from tests.models.hub import LLADA_8B

TRAIN = Train(adapter={"rank": 2})
SIZES = {"prompt": 8, "answer": 8, "sharded": False, "compiled": False}


@pytest.mark.parametrize(("rows", "recompute", "gigabytes"), [(8, False, 49), (12, False, 61), (8, True, 25)])
def test_what_llada_8b_needs(rows, recompute, gigabytes):
    """LoRA of rank 128 in bfloat16, blocks compiled, 200 + 256 tokens: peaks of an H200 with torch 2.11."""
    trained = LLADA_8B.adapters(Adapter())
    training = Training(LLADA_8B, rows, prompt=200, answer=256, itemsize=2, adapters=trained, compiled=True)
    assert training.bytes(recompute=recompute) / 1e9 == pytest.approx(gigabytes, rel=0.1)


@pytest.mark.parametrize(("share", "decision"), [(1.5, False), (0.5, True)])
def test_the_card_decides(share, decision, monkeypatch, capsys):
    model = llada(9, 8)
    monkeypatch.setattr(gradient_checkpointing, "card_memory", lambda: None)
    assert not decide_checkpointing(TRAIN, model, **SIZES) and not capsys.readouterr().out
    needed = []

    def record(training: Training, *, recompute: bool) -> float:
        needed.append(original(training, recompute=recompute))
        return needed[-1]

    original = Training.bytes
    monkeypatch.setattr(Training, "bytes", record)
    monkeypatch.setattr(gradient_checkpointing, "card_memory", lambda: 1e20)
    decide_checkpointing(TRAIN, model, **SIZES)
    monkeypatch.setattr(gradient_checkpointing, "card_memory", lambda: share * needed[0])
    capsys.readouterr()
    assert decide_checkpointing(TRAIN, model, **SIZES) == decision
    assert capsys.readouterr().out.startswith(f"gradient checkpointing is {'on' if decision else 'off'}: without it")
    for forced in (False, True):
        assert (
            decide_checkpointing(TRAIN.model_copy(update={"gradient_checkpointing": forced}), model, **SIZES) == forced
        )
    assert not capsys.readouterr().out
