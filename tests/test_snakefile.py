"""Real Snakemake runs of a small workflow: what runs share, and what does not change the numbers.

What is stale after which edit is tested in dvc/test_staleness.py.
"""

import json
import os
import signal
import time

import pytest
import yaml

from pipeline.settings.stages import STAGES
from pipeline.storage import parquet
from tests.conftest import ROOT
from tests.forks import SECONDS


def test_lint_asks_for_a_container_only(workflow):
    """Stages run in Snakemake's own environment, which is all that the lint complains about."""
    lints = [line for line in workflow("--lint", ok=False).splitlines() if line.lstrip().startswith("* ")]
    assert {lint.strip() for lint in lints} == {"* Specify a conda environment or container for each rule.:"}


def test_runs_share_data_and_base_where_their_settings_agree(copied):
    """A second run reuses both and only evaluates the base by its own settings; another base.lr makes a new base."""
    copied.params["runs"]["again"] = {"rounds": 1}
    copied.params["runs"]["apart"] = {"rounds": 1, "base": {"lr": 0.5}}
    rounds = {"rollout": 2, "reference": 2, "adjoint": 1, "train": 1, "evaluate": 2, "report": 1}
    assert copied.pending("again") == {"again": 1, **rounds}
    assert copied.pending("apart") == {"apart": 1, "prepare": 1, "base": 1, **rounds}
    copied("again")
    own, origin = (copied.directory / "data" / "runs" / run / "metrics.json" for run in ("again", "small"))
    again, small = (json.loads(path.read_text()) for path in (own, origin))
    assert (again["base_loss"], again["base"]) == (small["base_loss"], small["base"])
    assert again["time"]["cpu_seconds"] > sum(entry["cpu_seconds"] for entry in again["rounds"])


def test_an_edited_reward_of_ones_own_reruns_what_it_touches(workflow):
    """Comments rerun nothing; changes to the task's file, or to what it imports from its package, do."""
    package = workflow.directory / "mine"
    package.mkdir()
    task, helper = package / "words.py", package / "helper.py"
    helper.write_text("SCALE = 2\n")
    text = (ROOT / "examples" / "words.py").read_text()
    task.write_text(text.replace("import random", "import random\nfrom .helper import SCALE").replace("/ 2", "/ SCALE"))
    workflow.params["defaults"] |= {"task": {"name": "mine.words"}, "rounds": 1}
    workflow.params["defaults"]["base"]["updates"] = 5
    workflow()
    task.write_text("# a comment\n" + task.read_text())
    assert workflow.pending() == {}
    helper.write_text("SCALE = 4\n")
    assert workflow.pending()["rollout"] == 2
    helper.write_text("SCALE = 2\n")
    assert workflow.pending() == {}
    task.write_text(task.read_text().replace("ordered / SCALE", "ordered / 4"))
    assert workflow.pending()["rollout"] == 2


def test_ranks_shards_and_kills_change_nothing(finished, workflow):
    """2 processes, 4 shards and a SIGKILL in the middle give the same rows, and the same losses to 1e-5."""
    workflow.params["hardware"] = {"processes": 2, "threads": 1, "preload": True}
    workflow.params["defaults"]["rollout"]["shards"] = 4
    running = workflow.start()
    first = workflow.run_directory / "round_001" / "rollouts" / "00.parquet"
    deadline = time.monotonic() + SECONDS
    while not first.exists():
        assert running.poll() is None and time.monotonic() < deadline, (workflow.directory / "out").read_text()[-3000:]
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    workflow("--unlock")
    workflow()
    order = [("state_id", "ascending"), ("sample_id", "ascending")]

    def rows(run):
        folder = run.run_directory / "round_001" / "rollouts"
        return parquet.read(sorted(folder.glob("*.parquet")), parquet.ROLLOUTS).sort_by(order)

    many, few = rows(workflow), rows(finished)
    assert many.drop_columns("log_prob").equals(few.drop_columns("log_prob"))
    assert parquet.matrix(many, "log_prob") == pytest.approx(parquet.matrix(few, "log_prob"), abs=1e-4)
    alone, together = finished.metrics(), workflow.metrics()
    assert together["base_loss"] == pytest.approx(alone["base_loss"], rel=1e-5)
    for one, other in zip(alone["rounds"], together["rounds"], strict=True):
        assert other["losses"] == pytest.approx(one["losses"], rel=1e-5)


@pytest.mark.parametrize(
    ("path", "mistake", "message"),
    [
        ("rounds", 0, "error: params.yaml: defaults: rounds is 0"),
        ("task", {"name": "sudok"}, "did you mean 'sudoku'"),
    ],
)
def test_mistakes_stop_before_anything_runs(workflow, path, mistake, message):
    workflow.params["defaults"][path] = mistake
    assert message in workflow(ok=False)
    assert not (workflow.directory / "data").exists()


def test_slurm_profile_fits(copied):
    """It sets no key that profiles/default would override, names only rules that exist, and reruns nothing."""
    workstation, slurm = (
        yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text()) for name in ("default", "slurm")
    )
    assert not workstation.keys() & slurm.keys()
    assert slurm["set-resources"].keys() <= STAGES.keys()
    assert copied.pending("--profile", str(ROOT / "profiles" / "slurm")) == {}
