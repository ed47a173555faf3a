"""The table of a suite: seeds are averaged, families are kept apart."""

import pytest

from pipeline.stages.compare import by_family, curves, markdown, row


def metrics(name: str, accuracy: float) -> dict:
    rounds = [{"round": k, "grid_accuracy": accuracy * k, "seconds": {"train": 2.0, "rollout": 1.0}} for k in (1, 2)]
    final = {"n": 8, "reward": 0.5, "grid_accuracy": accuracy * 2, "grid_accuracy_se": 0.1}
    base = {"n": 8, "reward": 0.5, "grid_accuracy": 0.0, "grid_accuracy_se": 0.1}
    return {
        "run": name, "base": base, "final": final, "rounds": rounds, "rollouts": 20, "time": {"cpu_seconds": 7.0}
    }  # fmt: skip


RUNS = [metrics("one", 0.1), metrics("one-seed1", 0.3), metrics("other", 0.5)]


def test_table():
    """Mean over seeds, s/√n as error; the errors over items do not enter."""
    families = by_family(RUNS)
    assert list(families) == ["one", "other"]
    rows = [row(name, runs) for name, runs in families.items()]
    assert rows[0]["final"]["grid_accuracy"] == pytest.approx(0.4)
    assert rows[0]["final"]["grid_accuracy_se"] == pytest.approx(0.2)
    assert (rows[0]["n"], rows[0]["rollouts"], rows[1]["n"]) == (2, 20, 1)
    table = markdown(rows).splitlines()
    assert table[0] == "| run | seeds | grid_accuracy: base | grid_accuracy | rollouts | cpu_seconds |"
    assert table[2:] == ["| one | 2 | 0 ± 0 | 0.4 ± 0.2 | 20 | 7 |", "| other | 1 | 0 | 1 | 20 | 7 |"]


def test_curves():
    assert curves(RUNS[:2]) == {
        "metric": "grid_accuracy",
        "points": [
            (10, 3.0, pytest.approx(0.2), pytest.approx(0.1)),
            (20, 6.0, pytest.approx(0.4), pytest.approx(0.2)),
        ],
    }
