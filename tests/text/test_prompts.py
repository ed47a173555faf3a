"""Chat prompts in the checkpoint's own tokens, answers up to the stop token, and what never may be sampled."""

import json

import pytest
import torch
from tokenizers import Tokenizer

from pipeline.errors import PipelineError
from pipeline.models.policy_directory import load_policy, save_policy
from pipeline.plugins import load_model
from pipeline.text.prompts import PromptFormat, load_prompt_format
from pipeline.text.tokenizer import PADDING, buckets, character_tokenizer, encode, load_tokenizer
from tests.conftest import task_of
from tests.models import hub

RUN = load_model("llada")
EOT, EOS, MASK = 126348, 126081, 126336


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return hub.write_chat(tmp_path_factory.mktemp("chat"), torch.float32)


@pytest.fixture(scope="module")
def opened(checkpoint):
    return load_policy(checkpoint, RUN)


@pytest.fixture
def spoken(checkpoint, opened):
    """The task in the checkpoint's language, or in that of another directory with the same model."""

    def speak(path=None, profile="strict", **settings):
        task = task_of("countdown", template="chat", profile=profile)
        return load_prompt_format(path or checkpoint, *opened[:2], task, **settings)

    return speak


def test_prompts_are_the_published_ones(spoken, opened):
    prompts = spoken(prefill="<reasoning>").prompts(["\nWhat is 2 + 2?", "Äh?"], [0, 1], 256)
    assert opened[1].decode(prompts[0].tolist(), skip_special_tokens=False) == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nWhat is 2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<reasoning>"
    )
    assert prompts[0][:2].tolist() == [126080, 126346] and len(prompts[0]) > len(prompts[1])


def test_prompts_are_never_cut(spoken):
    told = spoken()
    with pytest.raises(PipelineError, match=r"item 7 has \d+ tokens and its answer 256, but the model takes 1024"):
        told.prompts(["?", "x" * 800], [3, 7], 256)
    with pytest.raises(PipelineError, match=r"item 3 holds the token <\|mdm_mask\|>"):
        told.prompts(["<|mdm_mask|>"], [3], 256)


def test_truncation_and_padding_of_a_tokenizer_are_not_obeyed(checkpoint, tmp_path):
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    opened = load_tokenizer(tmp_path)
    rows = [encoding.ids for encoding in opened.encode_batch(["x" * 3, "x" * 20], add_special_tokens=False)]
    assert [len(row) for row in rows] == [3, 20]
    assert json.loads(opened.to_str())["truncation"] is json.loads(opened.to_str())["padding"] is None


@pytest.mark.parametrize("stop", [EOT, EOS])
def test_answers_end_at_the_first_stop(spoken, opened, stop):
    text = opened[1].encode("2+2").ids
    tokens = torch.tensor([[*text, stop, *text, EOS], [*text, *text, EOS, EOS]])
    assert spoken().answers(tokens) == ["2+2", "2+22+2"]
    whole = spoken(profile="d1", prefill="<reasoning>").answers(tokens)
    assert whole[1] == "<reasoning>2+22+2<|endoftext|><|endoftext|>" and whole[0].count("2+2") == 2


def test_an_embedded_answer_ends_at_its_first_end():
    """In the alphabet of a base that has learnt longer answers; without the end token nothing is cut."""
    task = task_of("sudoku")
    for lengths, read in ((16, 20), ["12", "1234", ""]), ((), ["120", "1234", "0"]):
        tokenizer = character_tokenizer(task.characters(lengths))
        texts = ["12.0", "1234", "...0"] if lengths else ["120", "1234", "0"]
        rows = [encode(tokenizer, [text]) for text in texts]
        assert [PromptFormat(tokenizer, task, None).answers(row)[0] for row in rows] == read


def test_rows_without_a_token_are_never_predicted(opened):
    logits = opened[0](input_ids=torch.tensor([[1, 2, MASK]])).logits
    banned = (logits == -torch.inf).all(dim=1)[0].nonzero()[:, 0].tolist()
    assert banned == [MASK, *range(126349, 126464)]


def test_a_policy_keeps_its_template_and_no_code(checkpoint, opened, spoken, tmp_path):
    save_policy(tmp_path / "policy", *opened[:2], RUN, checkpoint)
    saved = json.loads((tmp_path / "policy" / "tokenizer_config.json").read_text())
    assert saved["mask_token"] == "<|mdm_mask|>" and "auto_map" not in saved
    again, first = (spoken(path).prompts(["?"], [0], 1)[0] for path in (tmp_path / "policy", checkpoint))
    assert torch.equal(again, first)
    (tmp_path / "policy" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert len(spoken(tmp_path / "policy").prompts(["?"], [0], 1)[0]) == 1


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "has no chat template"),
        (
            "{{ raise_exception('one system message only') }}",
            "chat template fails: TemplateError: one system message only",
        ),
        ("{{ messages.__class__.__mro__ }}", "chat template fails: .*unsafe"),
        ("{% for %}", "chat template fails"),
    ],
)
def test_templates_that_fail_are_one_line(checkpoint, spoken, tmp_path, template, message):
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    settings["chat_template"] = template or None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(PipelineError, match=message):
        spoken(tmp_path).prompts(["?"], [0], 1)


def test_the_mask_of_configuration_and_tokenizer_agree(tmp_path):
    wrong = hub.write_chat(tmp_path, mask_token_id=5)
    with pytest.raises(PipelineError, match=r"mask_token_id is 5 in config.json, but <\|mdm_mask\|> is token 126336"):
        load_policy(wrong, RUN)


def test_buckets():
    assert buckets([(5, 2), (3, 2), (5, 2), (5, 2), (3, 2)], 2) == [[1, 4], [0, 2], [3]]
    assert buckets([(4, 1)] * 5, 3) == [[0, 1, 2], [3, 4]]
    assert buckets([(1, 4), (1, 3), (1, 4)], 3) == [[1], [0, 2]]
    assert PADDING < 0
