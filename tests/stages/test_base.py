"""What pre-training draws: answers of one length or of several in turn; and what is checked before."""

import json
from argparse import Namespace

import pyarrow as pa
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.runtime.random_streams import Stream
from pipeline.settings.params_file import parse_params
from pipeline.settings.sections import Base
from pipeline.settings.stages import BaseSettings, settings_json
from pipeline.stages import base, prepare
from pipeline.storage import parquet
from pipeline.tasks.base import Item
from pipeline.tasks.sudoku import Sudoku, items
from pipeline.text.prompts import PromptFormat
from pipeline.text.tokenizer import character_tokenizer, encode, mask_id
from pipeline.training.corpus import batches, replays
from pipeline.training.replay_buffer import Batch, Replay
from tests.conftest import task_of
from tests.models import hub

TASK = task_of("sudoku")


@pytest.fixture(scope="module")
def corpus() -> pa.Table:
    made = items(Sudoku(base_items=50, train_items=1, test_items=1, hard_items=0), 0)["base"]
    rows = [{"item_id": number, **vars(item)} for number, item in enumerate(made)]
    return pa.Table.from_pylist(rows, schema=parquet.ITEMS)


def drawn(corpus: pa.Table, lengths: tuple[int, ...] | None) -> tuple[list[Batch], str]:
    """Seven updates, and the alphabet."""
    section = Base(updates=7, batch_size=8, lengths=lengths)
    alphabet = TASK.characters(lengths or ())
    rows = [(str(number), Item(row["prompt"], row["reference"])) for number, row in enumerate(corpus.to_pylist())]
    of_policy = PromptFormat(character_tokenizer(alphabet), TASK, None)
    return list(batches(replays(section, rows, of_policy), section, 5)), alphabet


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items())


@pytest.mark.parametrize("lengths", [None, (16,)])
def test_one_length_is_the_corpus_as_it_is(corpus, lengths):
    """Alphabet and random numbers of a base that knows no other length."""
    got, alphabet = drawn(corpus, lengths)
    tokenizer = character_tokenizer("01234>")
    texts = (encode(tokenizer, corpus[name].to_pylist()) for name in ("prompt", "reference"))
    wanted = list(Replay.of_texts(*texts, mask_id(tokenizer)).batches(7, 8, 5, Stream.BASE, 0))
    assert alphabet == "01234>" and len(got) == len(wanted) == 7
    assert all(map(same, got, wanted))


def test_lengths_take_turns(corpus):
    """Each batch has one length; its answers are those of its prompts, and ends, which are masked like any token."""
    got, alphabet = drawn(corpus, (16, 32, 64))
    assert [batch.state.shape[1] for batch in got] == [16, 32, 64, 16, 32, 64, 16]
    tokenizer = character_tokenizer(alphabet)
    pairs = set(zip(corpus["prompt"].to_pylist(), corpus["reference"].to_pylist(), strict=True))
    prompts = [tokenizer.decode_batch(batch.prompt.tolist()) for batch in got]
    assert prompts[0] != prompts[1] != prompts[2]
    for batch, of_batch in zip(got, prompts, strict=True):
        answers = tokenizer.decode_batch(batch.tokens[:, 0].tolist())
        assert set(zip(of_batch, map(TASK.shown, answers), strict=True)) <= pairs
        assert all(set(answer[16:]) <= {TASK.end} for answer in answers)
        masked = batch.state == mask_id(tokenizer)
        assert masked.any(dim=1).all() and torch.equal(batch.state[~masked], batch.tokens[:, 0][~masked])
        assert batch.state.shape[1] == 16 or masked[:, 16:].any()


def rows(*words: str) -> str:
    return "".join(json.dumps({"question": f"How many {word}?", "answer": "#### 1"}) + "\n" for word in words)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("<|mdm_mask|>", "more", "8 of the split 'train' (train.jsonl, line 9) holds the token <|mdm_mask|>"),
        ("more", "<|mdm_mask|>", "1 of the split 'test' (test.jsonl, line 2) holds the token <|mdm_mask|>"),
        ("more" * 300, "more", "8 of the split 'train' (train.jsonl, line 9) has 1320 tokens and its answer 64"),
        ("more", "more" * 150, "1 of the split 'test' (test.jsonl, line 2) has 877 tokens and its answer 200"),
    ],
)
def test_every_prompt_is_checked_before_the_base_is_made(tmp_path, monkeypatch, train, test, message):
    """Of all splits, with each length and prefill that a run of this base uses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text(rows(*"abcdefgh", train))
    (tmp_path / "test.jsonl").write_text(rows("x", test))
    data = {"path": "train.jsonl", "test_path": "test.jsonl"}
    task = {"name": "gsm8k", "data": data, "answer_length": 64}
    checkpoint = hub.write_chat(tmp_path / "checkpoint")
    (checkpoint / "model-00001-of-00002.safetensors").unlink()  # no weight is read before
    run = parse_params({"default_run": "a", "runs": {"a": {"task": task, "base": {"path": str(checkpoint)}}}}).runs["a"]
    settings = BaseSettings.model_validate_json(settings_json(run, "base"))
    prepare.run(Namespace(out=tmp_path / "items"), settings)
    limits = {"train": [["", 64]], "held_out": [["", 64], ["<reasoning>", 200]]}
    args = Namespace(items=tmp_path / "items" / "base.parquet", limits=limits, out=tmp_path / "out")
    with pytest.raises(PipelineError) as refused:
        base.run(args, settings)
    assert f"the prompt of item {message}" in str(refused.value)
