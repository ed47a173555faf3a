"""What the Snakefile takes from the logs of reports, and what a suite's report is made with."""

from pathlib import Path

import pytest

from pipeline.settings.sections import Suite
from pipeline.workflow.rules import made_with_suite, results


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("data/runs/mine/logs")
    folder.mkdir(parents=True)
    return folder


def test_a_log_may_hold_any_bytes(logs):
    """A compiler that a reward calls writes in its own encoding."""
    (logs / "report.log").write_bytes(b"accuracy 0.5 \xb1 0.1\n")
    assert "accuracy 0.5" in results(["mine"], since=0)


def test_a_report_is_stale_when_the_suite_compares_other_runs():
    """Its files alone would not say so: they are all older than the report if one run less is wanted."""
    made = {made_with_suite(Suite(runs=runs, seeds=seeds)) for runs in (["a"], ["a", "b"]) for seeds in (None, [0, 1])}
    assert len(made) == 4
