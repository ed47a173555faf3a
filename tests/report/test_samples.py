"""Which answers a report shows, and how their characters are marked."""

import pytest

from pipeline.evaluation.summary import worst
from pipeline.report.samples import Sample, legend, samples_of
from pipeline.report.svg import spread

BRIEF = "Be brief, and say nothing that nobody needs to know."


def sampled(item: int, answer: str, right: float, puzzle: str = "1 ·\n· 2", reference: str = "1 2\n1 2") -> dict:
    metrics = {"reward": right, "accuracy": right}
    return {"item": item, "puzzle": puzzle, "reference": reference, "answer": answer, "group": "", "metrics": metrics}


def shown(last: list[dict], base: list[dict] = (), **more: list[dict]) -> list[Sample]:
    """Of the test split and `more` splits, which the base has not answered."""
    splits = {
        "test": {"greedy": {"samples": last}},
        **{split: {"greedy": {"samples": found}} for split, found in more.items()},
    }
    before = {split: {"greedy": {"samples": base if split == "test" else []}} for split in splits}
    return samples_of(before, splits, "greedy", ["accuracy"])


def test_the_worst_come_first_and_the_base_only_where_it_answered():
    base = [sampled(0, "1 1\n1 2", 0.0), sampled(1, "1 2\n1 2", 1.0)]
    last = [sampled(0, "1 2\n1 2", 1.0), sampled(1, "1 2\n1 2", 1.0), sampled(7, "1 3\n1 2", 0.0)]
    found = shown(last, base, hard=[sampled(3, "1 3\n1 2", 0.0), last[0]])
    assert [sample.title for sample in found] == ["prompt 8", "hard, prompt 4", "prompt 1", "prompt 2"]
    assert [text.title for text in found[0].texts] == ["prompt", "reference", "policy"]
    assert [text.title for text in found[2].texts] == ["prompt", "reference", "base", "policy"]
    assert [text.verdict for text in found[2].texts] == ["", "", "wrong", "right"]


def test_marks():
    """Givens, what was blank, and what differs from the reference, unless the answer is right in its own way."""
    other = sampled(0, "3 2\n1 2", 0.0)
    (found,) = shown([other])
    assert found.layout == "grids"
    assert found.texts[2].text == [
        ("3", "wrong"),
        (" ", ""),
        ("2", "blank"),
        ("\n", ""),
        ("1", "blank"),
        (" ", ""),
        ("2", "given"),
    ]
    (right,) = shown([{**other, "metrics": {"reward": 1.0, "accuracy": 1.0}}])
    assert ("3", "given") in right.texts[2].text
    (short,) = shown([sampled(0, "3", 0.0)])
    assert short.texts[2].text == [("3", "")]


def test_layouts():
    """One long line above the other; what has another shape than its reference is prose, folded if it is long."""
    (sequence,) = shown([sampled(0, "ACDE" * 9, 0.0, "A···" * 9, "ACDF" * 9)])
    assert sequence.layout == "stacked"
    (chat,) = shown([sampled(0, "First this.\n" * 20 + "So 12.\n</answer>\n", 0.0, "What is 3 · 4?", "12")])
    assert (chat.layout, [text.preview for text in chat.texts]) == ("prose", ["", "", "… So 12."])


def test_marks_of_the_task():
    """With those of the prompt, where a text is laid over it, and alone; at most three, in the order of their names."""
    marks = {"region": [1, 2], "changed": [2], "flagged": [2, 3], "more": [0]}
    aligned = sampled(0, "ACDE", 1.0, "A__E", "AKLE") | {"marks": {"answer": marks}}
    (found,) = shown([aligned])
    assert found.layout == "stacked"
    assert found.texts[2].text == [
        ("A", "given"),
        ("C", "blank underlined"),
        ("D", "blank underlined coloured framed"),
        ("E", "given framed"),
    ]
    (prose,) = shown([aligned | {"puzzle": "Which?"}])
    assert prose.texts[2].text == [("A", ""), ("C", "underlined"), ("D", "underlined coloured framed"), ("E", "framed")]
    splits = {"test": {"greedy": {"samples": [sampled(1, "1", 1.0), aligned]}}}
    assert legend(splits, "greedy") == [("region", "underlined"), ("changed", "coloured"), ("flagged", "framed")]


def test_what_is_no_accuracy_has_no_errors():
    """An answer may differ from a reference that is only where it came from; its metrics stand beside it."""
    other = sampled(0, "3 2\n1 2", 0.0)
    splits = {"test": {"greedy": {"samples": [{**other, "metrics": {"reward": -1.0, "humanness": 0.7}}]}}}
    (found,) = samples_of(splits, splits, "greedy", ["humanness"])
    policy = found.texts[-1]
    assert not found.failed and policy.verdict == "" and policy.metrics == "reward -1, humanness 0.7"
    assert "wrong" not in {mark for _, mark in policy.text}


def test_wording_that_all_prompts_share_is_left_out():
    """Whole lines at both ends; of prompts that are laid over their answers nothing is."""
    prompts = [sampled(item, "72", 1.0, f"{BRIEF}\n{item} + 1?\nEnd.\n<x>", "72") for item in (10, 11)]
    assert [sample.texts[0].text for sample in shown(prompts)] == [[("… 10 + 1? …", "")], [("… 11 + 1? …", "")]]
    apart = [sampled(item, "72", 1.0, f"{item} + 1?", "72") for item in (10, 11)]
    assert [sample.texts[0].text for sample in shown(apart)] == [[("10 + 1?", "")], [("11 + 1?", "")]]
    (alone,) = shown(prompts[:1])
    assert alone.texts[0].text == [(prompts[0]["puzzle"], "")]


def test_the_worst_answers():
    """By the headline metric, then the reward; no right ones and, without an accuracy, not the best of all."""
    metrics = [
        {"reward": reward, "accuracy": right} for reward, right in ((1, 1), (0.5, 0), (0.2, 0), (0.9, 0), (1, 1))
    ]
    assert worst(metrics, 2) == [1, 2]
    assert worst(metrics, 9) == [1, 2, 3]
    assert worst([{"reward": value} for value in (3.0, -1.0, 3.0)], 9) == [1]


def test_labels_keep_their_order_and_distance():
    assert spread([0.5, 0.5, 0.1], 0.1) == pytest.approx([0.45, 0.55, 0.1])
    places = spread([1.0, 0.99, 1.0, 0.98], 0.2)
    assert places == pytest.approx([0.8, 0.6, 1.0, 0.4])
    assert spread([], 0.1) == []
