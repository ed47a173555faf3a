"""Files that DVC brings back are trusted if they match their seal: clones, revisions, experiments, remotes, kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from pipeline.settings.project import Keep
from pipeline.workflow import retention
from tests.dvc.conftest import Repository
from tests.forks import SECONDS

EVALUATIONS = {"evaluate": 3, "report": 1}


def test_a_clone_has_nothing_to_do_and_knows_what_an_edit_makes_stale(clone):
    assert clone.pending() == {}
    assert not clone.stale()
    assert "up to date" in clone.dvc("repro")
    clone.section("evaluate", batch_size=8)
    assert clone.pending() == EVALUATIONS


def test_older_revisions_there_and_back(repository):
    repository.section("evaluate", batch_size=8)
    repository()
    metrics = (repository.run_directory / "metrics.json").read_bytes()
    repository.dvc("repro")
    assert (repository.run_directory / "metrics.json").read_bytes() == metrics, "only recorded"
    repository.commit("batches of 8")
    for revision in ("HEAD~1", "main"):
        repository.run("git", "checkout", "-q", revision)
        assert repository.pending() == EVALUATIONS, "outputs of the other revision"
        repository.dvc("checkout")
        assert repository.pending() == {}
        assert not repository.stale()
    page = repository.dvc("plots", "diff", "HEAD~1", "main").strip().removeprefix("file://")
    shown = Path(page).read_text(encoding="utf-8")
    assert all(f"{revision}_data_runs_small_learning_curve.svg" in shown for revision in ("HEAD~1", "main"))
    assert all(f'"rev": "{revision}"' in shown for revision in ("HEAD~1", "main")), "curves over each other"
    (difference,) = json.loads(repository.dvc("metrics", "diff", "HEAD~1", "main", "--json")).values()
    assert set(difference) == {"cpu_seconds"}
    header, *rows = repository.dvc("exp", "show", "--only-changed", "--csv", "-n", "2").splitlines()
    assert len(rows) == 3 and {"cpu_seconds", "defaults.evaluate.batch_size"} < set(header.split(","))
    assert len(header.split(",")) <= 20


def test_a_clone_does_not_miss_what_was_pruned(repository, tmp_path):
    """After pruning, DVC only records which files are gone, and a clone has nothing to compute."""
    retention.prune(repository.run_directory, 2, Keep(buffers=1))
    report = (repository.run_directory / "timings" / "report.json").read_text()
    repository.dvc("repro")
    assert (repository.run_directory / "timings" / "report.json").read_text() == report
    assert not repository.stale()
    repository.commit("pruned")
    repository.dvc("push")
    repository.run("git", "clone", "-q", str(repository.directory), str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone")
    clone.dvc("pull")
    assert not (clone.run_directory / "round_001" / "rollouts").exists()
    assert clone.pending() == {}
    assert not clone.stale()


def test_metrics_and_plots_of_a_revision(repository):
    """Few enough to read: summary.json, and a curve for each of three of its numbers."""
    (entry,) = json.loads(repository.dvc("metrics", "show", "--json"))[""]["data"].values()
    drawn = ["rollout_reward", "kl_to_base", "ess"]
    assert list(entry["data"]) == ["score", "score_se", "score_base", *drawn, "rollouts", "cpu_seconds"]
    metrics = json.loads((repository.run_directory / "metrics.json").read_text())
    assert entry["data"]["score"] == metrics["final"]["grid_accuracy"]
    plots = json.loads(repository.dvc("plots", "show", "--json"))["data"]
    assert set(plots) == {"score", "rollout_reward", "kl_to_base", "data/runs/small/learning_curve.svg"}
    rows = json.loads((repository.run_directory / "curve.json").read_text())
    assert [row["evaluated_round"] for row in rows["evaluations"]] == [0, 1, 2]
    assert [row["rollout_reward"] for row in rows["rounds"]] == [row["reward_mean"] for row in metrics["rounds"]]


def test_what_depends_on_an_output_that_is_not_as_sealed_is_stale(clone):
    (clone.run_directory / "round_001" / "policy" / "model.safetensors").write_bytes(b"of whom?")
    last_round = {"rollout": 2, "reference": 2, "adjoint": 1, "train": 1}
    assert clone.pending() == {**last_round, "evaluate": 2, "report": 1}
    clone.dvc("checkout", "--force")
    assert clone.pending() == {}


def changed(path: Path, before: str) -> bool:
    """Whether a file has another text; no while it is not there, as Snakemake first removes what a job makes anew."""
    with suppress(FileNotFoundError):
        return path.read_text() != before
    return False


def test_a_killed_repro_goes_on_where_it_was(repository):
    repository.section("rollout", order="confidence")
    rollout, reference = (
        repository.run_directory / "timings" / f"{name}_001_00.json" for name in ("rollout", "reference")
    )
    before = reference.read_text()
    running = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], **repository.process(), start_new_session=True)
    deadline = time.monotonic() + SECONDS
    while not changed(reference, before):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    done = rollout.read_text()
    repository("--unlock")
    repository.dvc("repro")
    assert rollout.read_text() == done
    assert repository.pending() == {}
    assert not repository.stale()


def test_an_experiment_recomputes_what_its_setting_changes(repository):
    base = (repository.run_directory / "timings" / "base.json").read_text()
    train = (repository.run_directory / "timings" / "train_001.json").read_text()
    repository.dvc("exp", "run", "--temp", "--name", "short", "--set-param", "defaults.train.updates=4")
    assert repository.pending() == {}
    repository.dvc("exp", "apply", "short")
    assert repository.pending() == {}
    assert not repository.stale()
    assert (repository.run_directory / "timings" / "base.json").read_text() == base
    assert (repository.run_directory / "timings" / "train_001.json").read_text() != train


def test_a_remote_of_the_s3_type(repository, tmp_path, monkeypatch):
    pytest.importorskip("dvc_s3", reason="needs pip install dvc-s3")
    server = pytest.importorskip("moto.server", reason="needs pip install 'moto[server]'").ThreadedMotoServer(port=0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    urlopen(Request(f"{url}/shelf", method="PUT"))
    repository.dvc("remote", "add", "s3", "s3://shelf/dam")
    repository.dvc("remote", "modify", "s3", "endpointurl", url)
    repository.dvc("push", "--remote", "s3")
    shutil.rmtree(repository.directory / ".dvc" / "cache")
    shutil.rmtree(repository.run_directory)
    repository.dvc("pull", "--remote", "s3")
    server.stop()
    assert repository.pending() == {}
    assert not repository.stale()
