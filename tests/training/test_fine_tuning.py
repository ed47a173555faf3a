"""Masked-diffusion training of a saved base on one's own texts: it lowers the masked cross-entropy of held-out ones."""

import dataclasses
import json
import os
import random
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import PipelineError
from pipeline.models import llada
from pipeline.models.policy_directory import load_policy, save_policy
from pipeline.objectives.weighted_cross_entropy import weighted_cross_entropy
from pipeline.plugins import load_model
from pipeline.runtime.random_streams import Stream
from pipeline.settings.sections import Base
from pipeline.stages import base, prepare
from pipeline.tasks.base import Item
from pipeline.text.prompts import PromptFormat, load_prompt_format
from pipeline.text.tokenizer import PADDING, character_tokenizer
from pipeline.training import corpus, loop
from pipeline.training.checkpoint import Checkpoint
from tests.conftest import ROOT, task_of
from tests.conftest import llada as tiny
from tests.models import encoders, hub
from tests.training import fine_tuning

TASK = task_of("examples.words")


def words(count: int, seed: int) -> list[str]:
    """A letter, thrice or followed by two others: neither model knows this law."""
    rng = random.Random(seed)
    return [rng.choice(["aaa", "bbb", "ccc", "abc", "cba"]) for _ in range(count)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Two saved models, the task's items, words of one's own, and what two processes made of them."""
    directory = tmp_path_factory.mktemp("fine_tuning")
    encoders.write(directory / "masked_lm", "esm")  # some of its parameters have no gradient
    alphabet = character_tokenizer(TASK.alphabet)
    save_policy(directory / "llada", tiny(6, 5), alphabet, llada.PLUGIN)
    (directory / fine_tuning.DATA).write_text("\n".join(words(300, 0)))
    prepare.run(Namespace(out=directory / "items"), fine_tuning.settings("llada", False))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "-m", "tests.training.fine_tuning", "two"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return directory


def held_out(policy: Path, model: str) -> float:
    """The masked cross-entropy of words that were not learnt from."""
    module, tokenizer, _ = load_policy(policy, load_model(model))
    rows = [(str(number), Item("", word)) for number, word in enumerate(words(128, 1))]
    learnt = corpus.replays(Base(), rows, PromptFormat(tokenizer, TASK, None))
    batch = next(learnt[0].batches(1, 512, 0, Stream.BASE, 0))
    with torch.no_grad():
        return weighted_cross_entropy(module, batch).mean().item()


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("model", fine_tuning.TARGETS)
def test_held_out_cross_entropy_falls(directory, monkeypatch, model, adapter):
    """In one process and in two, with the same result; what is saved needs no other directory."""
    monkeypatch.chdir(directory)
    out = Path("one", fine_tuning.name(model, adapter))
    base.run(fine_tuning.arguments(out), fine_tuning.settings(model, adapter))
    before = held_out(Path(model), model)
    names = (load_file(path / "model.safetensors").keys() for path in (Path(model), out / "policy"))
    assert next(names) == next(names)
    losses = json.loads((out / "train.json").read_text())["losses"]
    assert len(losses) == 40 and not (out / "policy" / "adapter_config.json").exists()
    for sharding in ("none", "full"):
        two = Path("two", fine_tuning.name(model, adapter, sharding))
        assert json.loads((two / "train.json").read_text())["losses"] == pytest.approx(losses, abs=1e-3)
        assert held_out(two / "policy", model) == pytest.approx(held_out(out / "policy", model), abs=1e-2)
    assert held_out(out / "policy", model) < before - 0.5


def test_the_tasks_own_split_and_going_on(directory, monkeypatch):
    """`data: task` learns from the split `base`; a killed job continues to the same weights."""
    monkeypatch.chdir(directory)
    settings = fine_tuning.settings("masked_lm", True, data="task", updates=8)
    base.run(fine_tuning.arguments(Path("whole")), settings)
    step, count = loop._update, iter(range(5))
    monkeypatch.setattr(loop, "_update", lambda *args: step(*args) if next(count, None) is not None else 1 / 0)
    monkeypatch.setattr(Checkpoint, "interval", 0.0)
    with pytest.raises(ZeroDivisionError):
        base.run(fine_tuning.arguments(Path("killed")), settings)
    monkeypatch.setattr(loop, "_update", step)
    base.run(fine_tuning.arguments(Path("killed")), settings)
    whole, killed = (load_file(Path(name, "policy", "model.safetensors")) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert json.loads(Path("whole/train.json").read_text()) == json.loads(Path("killed/train.json").read_text())


def test_chat_answers_end_and_are_filled_up(tmp_path, monkeypatch):
    """Of a corpus with prompts: the answer, the token that ends a turn, end-of-text; rows that are too long are left
    out."""
    monkeypatch.chdir(tmp_path)
    checkpoint = hub.write_chat(tmp_path / "checkpoint", torch.float32)
    rows = [
        {"prompt": "2 + 2?", "reference": "4", "group": ""},
        {"question": "Äh?", "response": "What"},
        {"prompt": "?", "text": "x" * 9},
    ]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, tokenizer, mask = load_policy(checkpoint, llada.PLUGIN)
    task = task_of("countdown", template="chat", answer_length=6)
    told = load_prompt_format(checkpoint, model, tokenizer, task)
    section = Base(path="checkpoint", data="own.jsonl")
    (learnt,) = corpus.replays(section, corpus.read_rows(section, Path()), told)
    answers = [tokenizer.decode(row.tolist(), skip_special_tokens=False) for row in learnt.tokens[:, 0]]
    assert answers == ["4<|eot_id|>" + "<|endoftext|>" * 4, "What<|eot_id|><|endoftext|>"]
    prompts = told.prompts(["2 + 2?", "Äh?"], [0, 1], 6)
    assert [row[row != PADDING].tolist() for row in learnt.prompt] == [row.tolist() for row in prompts]
    assert learnt.mask_id == mask


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own.txt", "abc\nabd\n", "the answer of item own.txt, line 2 is outside the model's vocabulary: 'abd'"),
        ("own.txt", "\n \n", "base.data: own.txt has no answers to learn from"),
        ("own.txt", "aaaa\nabca\n", "base.data: no row has an answer of up to 3 tokens that fits into the model"),
        (
            "own.csv",
            "prompt,word\n>,abc\n",
            "own.csv, line 2: the column answer or response or text or sequence or reference is missing",
        ),
        ("own.jsonl", '{"answer": [1]}', "own.jsonl, line 1: answer must be a text"),
        ("own.fasta", ">x\nabc", "base.data: own.fasta must be one of .jsonl, .csv, .parquet, .txt"),
        ("none.txt", None, "base.data: none.txt is missing"),
    ],
)
def test_what_cannot_be_learnt_is_refused(directory, tmp_path, monkeypatch, name, text, message):
    """Before any weight is read."""
    (tmp_path / "items").symlink_to(directory / "items")
    (tmp_path / "llada").mkdir()
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "llada" / file).symlink_to(directory / "llada" / file)
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(PipelineError) as refused:
        base.run(fine_tuning.arguments(Path("out")), fine_tuning.settings("llada", False, data=name))
    assert message in str(refused.value)


def test_answers_of_any_length_and_holes(directory, monkeypatch):
    """Shorter answers are padded on the right, and only the holes of a partly revealed one are learnt."""
    monkeypatch.chdir(directory)
    module, tokenizer, mask = load_policy(Path("masked_lm"), load_model("masked_lm"))
    of_policy = PromptFormat(tokenizer, dataclasses.replace(TASK, hole="."), None)
    items = [Item(">", "ab"), Item("", "abc"), Item(">?", "cab", start="c..")]
    (learnt,) = corpus.replays(Base(), [(item.reference, item) for item in items], of_policy)
    seen = set()
    for batch in learnt.batches(8, 6, 0, Stream.BASE, 0):
        learns = batch.loss_positions[:, 0]
        assert torch.equal(learns, batch.state == mask)
        words = tokenizer.decode_batch(batch.tokens[:, 0].clamp(min=1).tolist())  # <pad> is special
        for word, marks in zip(words, learns.tolist(), strict=True):
            seen |= {(word, position) for position, mark in enumerate(marks) if mark}
        assert weighted_cross_entropy(module, batch).isfinite().all()
    assert seen == {*((word, n) for word in ("ab", "abc") for n in range(len(word))), ("cab", 1), ("cab", 2)}
    with pytest.raises(PipelineError, match="the start of item x has 3 tokens, but its answer 2"):
        corpus.replays(Base(), [("x", Item(">", "ab", start="a.."))], of_policy)
