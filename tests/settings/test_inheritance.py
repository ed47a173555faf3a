"""What a run takes over from `defaults` and from the run that it extends, and what it says that it leaves behind."""

import pytest

from pipeline.settings.params_file import Params, parse_params

CHAT = {
    "task": {"name": "gsm8k", "profile": "d1", "answer_length": 64, "validation_items": 7, "data": {"path": "x.jsonl"}},
    "base": {"path": "checkpoint"},
}


def params(**runs: object) -> Params:
    return parse_params({"default_run": next(iter(runs)), "runs": runs})


def said(found: Params, run: str) -> list[str]:
    return list(map(str, found.left_behind[run]))


def test_another_task_keeps_the_keys_that_it_has():
    found = params(parent=CHAT, child={"extends": "parent", "task": {"name": "math500", "answer_length": 32}})
    task = found.runs["child"].task.model_dump()
    assert (task["profile"], task["validation_items"], task["data"]["path"]) == ("d1", 7, "x.jsonl")
    assert (task["name"], task["answer_length"]) == ("math500", 32)
    assert said(found, "child") == said(found, "parent") == []


def test_keys_and_values_that_another_task_lacks_are_named():
    sudoku = {"task": {"name": "sudoku", "template": "compact", "hard_items": 3, "profile": "d1"}}
    child = {"extends": "parent", "task": {"name": "gsm8k"}, "base": {"path": "checkpoint"}}
    found = params(parent=sudoku, child=child, grandchild={"extends": "child", "rounds": 2})
    assert found.runs["child"].task.model_dump()["profile"] == "d1"
    wanted = [
        "task.hard_items of defaults or of the extended run is left out: task 'gsm8k' has no such key",
        "task.template of defaults or of the extended run is left out: task 'gsm8k' refuses the value",
    ]
    assert said(found, "child") == said(found, "grandchild") == wanted and said(found, "parent") == []


def test_what_a_replaced_task_has_left_behind_is_not_said():
    first = {"task": {"name": "sudoku", "hard_items": 3}}
    parent = {"extends": "first", "task": {"name": "countdown"}}
    found = params(first=first, parent=parent, child={"extends": "parent", "task": {"name": "sudoku"}})
    (note,) = said(found, "parent")
    assert note.startswith("task.hard_items of defaults or of the extended run is left out: task 'countdown' has no")
    assert said(found, "child") == []


def test_another_algorithm_keeps_the_keys_that_it_has():
    parent = {"algorithm": {"alpha": 0.5, "min_ess": 0.25, "jumps": "all"}}
    found = params(parent=parent, rwr={"extends": "parent", "algorithm": {"name": "rwr", "largest_step": 3}})
    rwr = found.runs["rwr"].algorithm.model_dump()
    assert (rwr["alpha"], rwr["min_ess"], rwr["largest_step"]) == (0.5, 0.25, 3)
    (note,) = said(found, "rwr")
    assert note == "algorithm.jumps of defaults or of the extended run is left out: algorithm 'rwr' has no such key"


def test_the_default_algorithm_by_name_and_another_model_lose_nothing():
    parent = {"algorithm": {"alpha": 0.5}, "model": {"hidden_size": 32}}
    found = params(parent=parent, child={"extends": "parent", "algorithm": {"name": "dam"}, "model": {"name": "mlp"}})
    run = found.runs["child"]
    assert (run.algorithm.alpha, run.model.hidden_size, said(found, "child")) == (0.5, 32, [])


@pytest.mark.parametrize("order", [("algorithm.name", "algorithm.epsilon"), ("algorithm.epsilon", "algorithm.name")])
def test_a_swept_name_goes_before_its_keys(order):
    values = {"algorithm.name": ["agrpo"], "algorithm.epsilon": [0.1]}
    swept = {"small": {key: values[key] for key in order}}
    raw = {"default_run": "small", "runs": {"small": {}}, "suites": {"sweep": {"runs": swept}}}
    (run,) = (run for name, run in parse_params(raw).runs.items() if name != "small")
    assert (run.algorithm.name, run.algorithm.model_dump()["epsilon"]) == ("agrpo", 0.1)
