"""Metrics of runs of a suite, made up."""

RESULT = {
    "round": 2,
    "split": "test",
    "sampler": "greedy",
    "length": 16,
    "hardware": "abacus",
    "versions": {"torch": "2"},
    "metrics": {"n": 8, "grid_accuracy": 0.0, "grid_accuracy_se": 0.0},
}


def metrics(name: str, accuracy: float) -> dict:
    """metrics.json of a run of two rounds, whose accuracy is 0, `accuracy`, 2 `accuracy`."""
    at = [
        {"n": 8, "reward": 0.5 + accuracy * k, "grid_accuracy": accuracy * k, "grid_accuracy_se": 0.1} for k in range(3)
    ]
    return {
        "run": name,
        "task": "sudoku",
        "git": "abc",
        "sampler": "greedy",
        "base": at[0],
        "final": at[2],
        "rounds": [{"round": k, "cpu_seconds": 30 * accuracy, **at[k]} for k in (1, 2)],
        "results": [RESULT | {"round": 1}, RESULT | {"metrics": at[2]}, RESULT | {"split": "hard"}],
        "evaluations": [
            {"round": k, "splits": {"test": {"greedy": at[k]}, "hard": {"greedy": {**at[k // 2], "groups": {}}}}}
            for k in range(3)
        ],
        "rollouts": 2000,
        "time": {"cpu_seconds": 7.0},
    }


RUNS = [metrics("one", 0.1), metrics("one-seed1", 0.3), metrics("other", 0.25)]
