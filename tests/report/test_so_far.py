"""The report of a run that is not finished."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.report.so_far import so_far
from pipeline.settings.params_file import parse_params
from tests.small_workflow import Workflow


@pytest.fixture
def halfway(finished: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    """The small workflow as it is while round 2 trains."""
    copy = Workflow(tmp_path / "copy")
    shutil.copytree(finished.directory, copy.directory)
    for name in ("train_002", "evaluate_002", "report"):
        (copy.run_directory / "timings" / f"{name}.json").unlink()
    shutil.rmtree(copy.run_directory / "round_002" / "policy")
    monkeypatch.chdir(copy.directory)
    return copy


def test_the_rounds_that_are_done(halfway):
    """It shows them, and touches nothing: what Snakemake has left to do it has left to do afterwards, too."""
    before = sorted((str(path), path.stat().st_mtime_ns) for path in halfway.run_directory.rglob("*"))
    html = so_far(parse_params(halfway.params), "small")
    assert "Not finished: 1 of 2 rounds are done. The policy shown is that of round 1." in html
    assert sorted((str(path), path.stat().st_mtime_ns) for path in halfway.run_directory.rglob("*")) == before


def test_rounds_of_other_settings_are_not_done(halfway):
    halfway.params["defaults"]["rollout"]["order"] = "confidence"
    html = so_far(parse_params(halfway.params), "small")
    assert "Not finished: 0 of 2 rounds are done. The policy shown is that of round 0." in html
    halfway.params["defaults"]["base"]["lr"] = 0.5
    with pytest.raises(PipelineError, match="small: nothing to show before the base is evaluated"):
        so_far(parse_params(halfway.params), "small")


def test_names(halfway):
    os.chdir(halfway.directory.parent)
    with pytest.raises(PipelineError, match="'smal' is not a run: did you mean 'small'"):
        so_far(parse_params(halfway.params), "smal")
    with pytest.raises(PipelineError, match="nothing to show"):
        so_far(parse_params(halfway.params), "small")
