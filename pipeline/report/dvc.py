"""The few numbers of a run that `dvc metrics`, `dvc exp show` and `dvc plots` show; metrics.json has all of them.

Their names are the same for every task, so that dvc.yaml can name them and runs of different tasks stand side by side.
"""

from pipeline.report.json_types import RunMetrics, Summary
from pipeline.report.run_metrics import headline_metric, scalars
from pipeline.settings.sections import judged_by

DRAWN = {"reward_mean": "rollout_reward", "kl_to_base": "kl_to_base", "ess_mean": "ess"}
"""Diagnostics of a round's rollouts: key of metrics.json -> name here."""


def summary(metrics: RunMetrics) -> Summary:
    """At most eight numbers: the headline metric of the base and of the last round with its standard error, the last
    round's rollouts, and what the run has cost.

    `score` is what runs are compared by: the exact KL if there is one, else the task's last metric on the test split.
    """
    name, last = headline_metric(metrics["base"]), dict(metrics["rounds"][-1]) if metrics["rounds"] else {}
    final = metrics["final"]
    found: dict[str, object] = {
        "score": final[name],
        "score_se": final.get(f"{name}_se"),
        "score_base": metrics["base"][name],
        **{ours: last.get(key) for key, ours in DRAWN.items()},
        "rollouts": metrics["rollouts"],
        "cpu_seconds": metrics["time"]["cpu_seconds"],
    }
    return scalars(found)


def curve(metrics: RunMetrics) -> dict[str, list[dict[str, object]]]:
    """Two lists of rows to plot: the score after each evaluated round, 0 being the base, and each round's rollouts and
    loss. No name occurs in both, because DVC joins the lists row by row."""
    name = headline_metric(metrics["base"])
    evaluations: list[dict[str, object]] = []
    for entry in metrics["evaluations"]:
        found = entry["splits"]["test"]
        scores = scalars(found[judged_by(found)]) | metrics["exact"].get(entry["round"], {})
        evaluations.append({"evaluated_round": entry["round"], "score": scores[name]})
    rounds: list[dict[str, object]] = []
    for row in metrics["rounds"]:
        drawn = {DRAWN[key]: value for key, value in row.items() if key in DRAWN}
        rounds.append({"round": row["round"], **drawn, "loss": row["loss"]})
    return {"evaluations": evaluations, "rounds": rounds}
