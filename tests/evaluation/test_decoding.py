"""Decoding of held-out prompts: which law each sampler draws from, whatever the batch; nothing runs on afterwards."""

import pytest
import torch

from pipeline.algorithms.dam import PLUGIN
from pipeline.evaluation.answers import decode
from pipeline.evaluation.decoding import Decoder
from pipeline.objectives.context import DecodeContext
from pipeline.plugins import load_task
from pipeline.runtime.random_streams import Stream, uniforms
from pipeline.samplers.ancestral import rollout
from pipeline.settings.algorithms import Dam
from pipeline.settings.sections import Evaluate
from pipeline.tasks.base import Item
from pipeline.tasks.scoring import Scorer
from pipeline.text.prompts import PromptFormat
from pipeline.text.tokenizer import character_tokenizer, encode, mask_id
from tests.conftest import llada
from tests.processes import still_running

ITEMS = [Item(prompt, "1234341221434321") for prompt in ("1034301221404321>", "0200134030014003>", f"{'0' * 16}>")]


@pytest.mark.facts
@pytest.mark.parametrize("sampler", ["ancestral", "ancestral_confidence"])
def test_ancestral_samplers_draw_from_the_law_of_rollouts_in_their_order(sampler):
    task = load_task("sudoku")
    tokenizer = character_tokenizer(task.characters(()))
    mask, length = mask_id(tokenizer), task.answer_length
    score = Scorer(task.settings(name="sudoku"), 1.0)
    policy = llada(tokenizer.get_vocab_size(), mask)

    def answers(batch_size):
        evaluate = Evaluate(batch_size=batch_size)
        context = DecodeContext(Dam(name="dam"), task, mask, torch.empty(0, dtype=torch.long), 5, evaluate)
        decoder = Decoder(policy, PromptFormat(tokenizer, task, None), PLUGIN, context, score)
        return list(decoder.answers(sampler, ITEMS, length, "", [True] * len(ITEMS)).values())

    prompt = torch.stack(list(encode(tokenizer, [item.prompt for item in ITEMS])))
    noise = uniforms(5, Stream.EVALUATION, 0, [(index, 0, 0) for index in range(len(ITEMS))], 2 * length)
    drawn = {
        order: rollout(
            policy,
            prompt,
            torch.full((len(ITEMS), length), mask),
            mask_id=mask,
            order_noise=noise[:, :length],
            token_noise=noise[:, length:],
            order=order,
        ).tokens
        for order in ("random", "confidence")
    }
    assert not drawn["random"].equal(drawn["confidence"])
    expected = tokenizer.decode_batch(drawn["random" if sampler == "ancestral" else "confidence"].tolist())
    found = answers(2)
    assert found == answers(256)
    assert [answer.replace(" ", "") for answer in found] == [text.replace(" ", "") for text in expected]


def test_a_reward_leaves_no_process_behind(tmp_path, monkeypatch):
    """Neither its own nor one that it has started, such as a sandbox that runs code."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "leaving").mkdir()
    (tmp_path / "leaving" / "task.py").write_text(
        "from dataclasses import replace\n"
        "from pipeline.tasks.sudoku import PLUGIN\n"
        "from tests.tasks.cases.rewards import leaves_a_child as score\n"
        "PLUGIN = replace(PLUGIN, score=score)\n"
    )
    task = load_task("leaving.task")
    tokenizer = character_tokenizer(task.characters(()))
    mask = mask_id(tokenizer)
    context = DecodeContext(Dam(name="dam"), task, mask, torch.empty(0, dtype=torch.long), 5, Evaluate())
    policy, score = llada(tokenizer.get_vocab_size(), mask), Scorer(task.settings(name="leaving.task"), 5.0)
    decoder = Decoder(policy, PromptFormat(tokenizer, task, None), PLUGIN, context, score)
    done = decode(decoder, {"test": ITEMS}, "")
    assert len(done) == 2 * len(ITEMS)
    assert still_running([int(done[0].metrics["reward"])]) == []
