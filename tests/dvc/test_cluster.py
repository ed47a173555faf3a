"""`dvc repro` on a real SLURM: DVC starts Snakemake, and Snakemake's profile sends the jobs to the cluster."""

import pytest

from tests.cluster import ask, slurm  # noqa: F401
from tests.dvc.conftest import Repository

pytestmark = pytest.mark.usefixtures("slurm")


def test_repro_sends_its_jobs_to_the_cluster(repository: Repository, monkeypatch: pytest.MonkeyPatch):
    """Two evaluations and the report, which both find finished afterwards."""
    repository.replace("profiles/slurm/config.yaml", "status-checks: 10", "status-checks: 1")
    repository.section("evaluate", every=2)
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "profiles/slurm")
    repository.dvc("repro")
    assert ask("squeue", "--states=all", "--noheader", "--format=%T").split() == ["COMPLETED"] * 3
    monkeypatch.delenv("SNAKEMAKE_PROFILE")
    assert repository.pending() == {}
    assert not repository.stale()
