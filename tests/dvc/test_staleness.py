"""What is stale after which edit: Snakemake and DVC, side by side."""

import shutil
import sys
from collections.abc import Callable

import pytest
import yaml

from pipeline.settings.params_file import Params
from pipeline.settings.project import Keep
from pipeline.settings.run import Run
from pipeline.settings.stages import STAGES
from pipeline.workflow import retention
from tests.conftest import ROOT
from tests.dvc.conftest import Repository

LAST_ROUND = {"rollout": 2, "reference": 2, "adjoint": 1, "train": 1, "evaluate": 1, "report": 1}
EVERYTHING = {
    "prepare": 1,
    "base": 1,
    "rollout": 4,
    "reference": 4,
    "adjoint": 2,
    "train": 2,
    "evaluate": 3,
    "report": 1,
}


def test_the_stage_names_all_that_the_keys_of_the_snakefile_see():
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["run"]
    assert set(stage["deps"]) == {"Snakefile", "pipeline"}
    assert set(stage["params"]) == {"defaults", "runs.${default_run}"}
    assert set(Params.model_fields) == {"default_run", "defaults", "runs", "suites", "describe", "keep", "hardware"}
    assert all(schema.model_fields.keys() <= Run.model_fields.keys() for schema in STAGES.values())
    assert {path["persist"] for out in stage["outs"] for path in out.values()} == {True}


def touch(repository: Repository) -> None:
    for path in sorted(repository.run_directory.rglob("*"), reverse=True):
        path.touch()


def edit_by_hand(repository: Repository) -> None:
    path = repository.run_directory / "round_001" / "targets" / "targets.parquet"
    path.write_bytes(path.read_bytes() + b"PAR1")


def edit_and_checkout(repository: Repository) -> None:
    edit_by_hand(repository)
    repository.dvc("checkout", "--force")


def train_code(repository: Repository) -> None:
    repository.replace("pipeline/stages/train.py", "warmup = 0\n", "warmup = 1\n")


def undone(repository: Repository) -> None:
    train_code(repository)
    assert repository.pending()
    repository.replace("pipeline/stages/train.py", "warmup = 1\n", "warmup = 0\n")


def another_run(repository: Repository) -> None:
    repository.params["runs"]["other"] = {"seed": 1}
    repository.configure()


def more_rounds(repository: Repository) -> None:
    repository.params["defaults"]["rounds"] = 3
    repository.configure()


def hardware(repository: Repository) -> None:
    counts = {"processes": 2, "threads": 2, "models": {"llada": 1}, "runs": {"small": 1}, "devices": 2}
    repository.params["hardware"] = {**counts, "preload": False, "compile": False}
    repository.configure()


def keep(repository: Repository) -> None:
    repository.params["keep"] = {"buffers": 1, "optimizer": "all"}
    repository.configure()


def prune(repository: Repository) -> None:
    retention.prune(repository.run_directory, 2, Keep(buffers=1))


FROM_TRAIN = {"rollout": 2, "reference": 2, "adjoint": 1, "train": 2, "evaluate": 2, "report": 1}
CONTRACT: dict[str, tuple[Callable[[Repository], object], dict[str, int], bool]] = {
    "nothing": (lambda repository: None, {}, False),
    "touched outputs": (touch, {}, False),
    "touched code": (lambda r: (r.directory / "pipeline" / "training" / "loop.py").touch(), {}, False),
    "comment in params.yaml": (lambda r: r.replace("params.yaml", "hardware:", "# few\nhardware:"), {}, False),
    "hardware": (hardware, {}, False),
    "what to keep": (keep, {}, False),
    "another run": (another_run, {}, False),
    # DVC compares bytes, and the files that are there: it starts Snakemake, which finds nothing to do.
    "comment in code": (lambda r: r.replace("pipeline/training/loop.py", "\ndef ", "\n# why\ndef "), {}, True),
    "old buffers removed": (prune, {}, True),
    "code of train": (train_code, FROM_TRAIN, True),
    "code of train, undone": (undone, {}, False),
    "evaluation setting": (lambda r: r.section("evaluate", batch_size=8), {"evaluate": 3, "report": 1}, True),
    "one more round": (more_rounds, LAST_ROUND, True),
    "learning rate": (lambda r: r.section("train", lr=2e-3), FROM_TRAIN, True),
    "source data": (lambda r: r.section("task", train_items=400), EVERYTHING, True),
    "output edited by hand": (edit_by_hand, {**LAST_ROUND, "train": 2, "evaluate": 2}, True),
    "output edited by hand, then dvc checkout": (edit_and_checkout, {}, False),
}


@pytest.mark.parametrize("edit", CONTRACT)
def test_snakemake_and_dvc_agree_on_what_is_stale(repository, edit):
    change, pending, stale = CONTRACT[edit]
    change(repository)
    assert (repository.stale(), repository.pending()) == (stale, pending)


def lose_records(repository: Repository) -> None:
    shutil.rmtree(repository.directory / ".snakemake")


def copy_into_a_fresh_clone(repository: Repository) -> None:
    """As `cp -r` does: new times, in the order of the names."""
    shutil.rmtree(repository.directory / ".snakemake")
    data, copy = repository.directory / "data", repository.directory / "copy"
    shutil.copytree(data, copy, copy_function=shutil.copyfile)
    shutil.rmtree(data)
    copy.rename(data)


@pytest.mark.parametrize("lose", [lose_records, copy_into_a_fresh_clone])
@pytest.mark.parametrize(
    "edit", ["nothing", "code of train", "evaluation setting", "one more round", "learning rate", "source data"]
)
def test_verdicts_without_snakemakes_records_are_the_same(repository, edit, lose):
    change, pending, _ = CONTRACT[edit]
    lose(repository)
    change(repository)
    assert repository.pending() == pending


def test_an_edit_by_hand_is_noticed_without_records(repository):
    lose_records(repository)
    edit_by_hand(repository)
    assert repository.pending() == CONTRACT["output edited by hand"][1]


def test_a_run_that_lost_a_file_is_no_success(repository):
    """Snakemake does not miss a policy that nothing pending reads; DVC would record the loss."""
    (repository.run_directory / "round_001" / "policy" / "model.safetensors").unlink()
    repository.dvc("repro", ok=False)
    assert "round_001/policy/model.safetensors is gone" in repository.run(
        sys.executable, "-m", "pipeline.workflow.seal", "small", ok=False
    )
