"""The pictures: p* at α = 1 is what the task is named after, and text and tables say the same."""

from collections import Counter

import numpy as np
import pytest

from pipeline.plugins import load_task
from pipeline.tasks import checkerboard, pinwheel
from pipeline.tasks.pictures import SIZE, Picture, render

TASKS = {"checkerboard": checkerboard, "pinwheel": pinwheel}


@pytest.mark.parametrize("name", TASKS)
def test_the_optimum_at_alpha_one_is_the_picture(name):
    problem, picture = load_task(name).enumerated, TASKS[name].picture()
    optimum = problem.base * np.exp(problem.reward)
    np.testing.assert_allclose(optimum / optimum.sum(), picture / picture.sum(), rtol=1e-12)
    assert problem.reward.min() == 0  # `dtm` counts rewards below 0 as 0
    flat = np.full_like(problem.base, 1 / problem.base.size)
    assert abs(problem.base.sum() - 1) < 1e-12
    assert (problem.base * np.log(problem.base / flat)).sum() > 0.05  # not flat
    marginals = problem.base.sum(1)[:, None] * problem.base.sum(0)
    assert (problem.base * np.log(problem.base / marginals)).sum() > 0.01  # nor independent


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_the_reward_table(name):
    task = load_task(name)
    item, problem = task.items(Picture(base_items=1), 0)["train"][0], task.enumerated
    for a, b in [(0, 0), (0, 90), (90, 0), (17, 44), (45, 45)]:
        answer = problem.values[a] + problem.values[b]
        assert task.score(item, answer)["reward"] == problem.reward[a, b]
        assert render(item, answer) == f"{a}, {b}"
    lowest = {"reward": problem.reward.min(), "inside": 0.0}
    assert all(task.score(item, text) == lowest for text in ("", "!", "!!!", ">!", "é!"))
    assert len(set(task.alphabet)) == len(task.alphabet) == SIZE + 2


def test_bright_fields_of_the_checkerboard_are_inside():
    task = checkerboard.PLUGIN
    item, values = task.items(Picture(base_items=1), 0)["train"][0], task.enumerated.values
    inside = np.array([[task.score(item, a + b)["inside"] for b in values] for a in values])
    assert inside[:13, :13].all() and not inside[:13, 13:26].any() and inside[13:26, 13:26].all()
    assert inside.sum() == 25 * 13 * 13


def test_base_items_follow_the_base_law():
    """Counts of the first value over 50,000 pairs: χ² with 90 degrees of freedom."""
    problem, count = pinwheel.PLUGIN.enumerated, 50_000
    seen = Counter(item.reference[0] for item in pinwheel.PLUGIN.items(Picture(base_items=count), 1)["base"])
    expected = problem.base.sum(axis=1) * count
    chi_squared = sum((seen[value] - e) ** 2 / e for value, e in zip(problem.values, expected, strict=True))
    assert abs(chi_squared - 90) < 5 * 180**0.5
