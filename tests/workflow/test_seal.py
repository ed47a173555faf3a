"""A seal from a DVC remote sets the times and the records of its own run; one that names anything else is refused."""

import json
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from snakemake.persistence.file import FilePersistence

from pipeline.errors import PipelineError
from pipeline.storage.atomic_files import sha256_of
from pipeline.workflow import seal
from tests.conftest import Workflow

RUN, METADATA = Path("data/runs/mine"), Path(".snakemake/metadata")


def record(output: str) -> str:
    return "metadata/" + urlsafe_b64encode(output.encode()).decode()


OWN = record(f"{RUN}/x")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one run of one file, beside something that a seal has nothing to do with."""
    (tmp_path / "work" / RUN).mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (RUN / "x").write_text("x")
    return tmp_path


def write(*, records: dict[str, object], files: dict[str, object] | None = None) -> None:
    """A seal of the file, as a remote might hold it, with these records."""
    described = {"x": {"time": 10**18, "sha256": sha256_of(RUN / "x")}} if files is None else files
    (RUN / seal.SEAL).write_text(json.dumps({"files": described, "records": records}))


def everything(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


def test_times_and_records_come_back(directory):
    METADATA.mkdir(parents=True)
    (METADATA / OWN.removeprefix("metadata/")).write_text("record")
    seal.seal("mine")
    sealed, time = (RUN / seal.SEAL).read_bytes(), (RUN / "x").stat().st_mtime_ns
    for path in (RUN / "x", RUN / seal.SEAL):  # as DVC brings them
        path.write_bytes(path.read_bytes())
    Path(".snakemake").rename(directory / "elsewhere")
    seal.restore("mine")
    assert (RUN / "x").stat().st_mtime_ns == time
    assert (Path(".snakemake") / OWN).read_text() == "record"
    seal.seal("mine")
    assert (RUN / seal.SEAL).read_bytes() == sealed


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "../../outside/x",
        "../evil/../.snakemake/" + OWN,
        "{directory}/outside/x",
        "{directory}/work/.snakemake/" + OWN + "/../../../x",
        "metadata/../x",
        "metadata/../../Snakefile",
        "metadata/@../x",
        "metadata/x\0",
        "metadata",
        "metadata/",
        "",
        "seals/mine",
        "incomplete/" + OWN.removeprefix("metadata/"),
        record("data/runs/other/x"),
        record("data/runs/mine2/x"),
        OWN + "/" + OWN.removeprefix("metadata/"),
    ],
)
def test_records_stay_in_their_directory(directory, name):
    """Nothing is written, not even the records that are in order."""
    write(records={OWN: "record", name.format(directory=directory): "evil"})
    before, time = everything(directory), (RUN / "x").stat().st_mtime_ns
    with pytest.raises(PipelineError, match=r"^data/runs/mine/seal.json holds .* no record of this run") as refused:
        seal.restore("mine")
    assert "\n" not in str(refused.value)
    assert everything(directory) == before
    assert (RUN / "x").stat().st_mtime_ns == time


@pytest.mark.parametrize("link", ["@part", "file"])
def test_links_do_not_lead_records_elsewhere(directory, link):
    name = f"{RUN}/{'long/' * 60}x" if link == "@part" else f"{RUN}/x"
    path = Path(FilePersistence(path=Path.cwd() / ".snakemake")._record_path(str(METADATA), name))
    place = METADATA / path.relative_to(METADATA).parts[0]
    METADATA.mkdir(parents=True, exist_ok=True)
    place.symlink_to(directory / "outside" / "x")
    if link == "@part":
        (directory / "outside" / "x").mkdir()
    write(records={str(path.relative_to(".snakemake")): "evil"})
    before = everything(directory)
    with pytest.raises(PipelineError, match="no record of this run"):
        seal.restore("mine")
    assert everything(directory) == before


def test_the_directory_of_records_may_be_a_link(directory):
    """The user may have put it on another disk."""
    METADATA.parent.mkdir()
    METADATA.symlink_to(directory / "outside")
    write(records={OWN: "record"})
    seal.restore("mine")
    assert (directory / OWN.replace("metadata", "outside")).read_text() == "record"


@pytest.mark.parametrize("name", ["../other/x", "../../../../outside/x", "{directory}/outside/x", "link/x"])
def test_files_stay_in_the_directory_of_the_run(directory, name):
    (directory / "outside" / "x").write_text("x")
    (RUN.parent / "other").mkdir()
    (RUN.parent / "other" / "x").write_text("x")
    (RUN / "link").symlink_to(directory / "outside")
    times = {path: path.stat().st_mtime_ns for path in everything(directory)}
    file = {"time": 10**18, "sha256": sha256_of(RUN / "x")}
    write(records={}, files={"x": file, name.format(directory=directory): file})
    with pytest.raises(PipelineError, match=r"is not what data/runs/mine/seal.json describes"):
        seal.restore("mine")
    del times[Path.cwd() / RUN]
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"files": []}', '{"files": {"x": {"time": -1, "sha256": ""}}}', '{"records": {"x": 1}}', "\ud800"],
)
def test_what_is_no_seal_is_refused(text):
    (RUN / seal.SEAL).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(PipelineError, match=r"data/runs/mine/seal.json is not a seal"):
        seal.restore("mine")


def test_a_dry_run_refuses_a_hostile_seal_in_one_line(workflow: Workflow):
    run = workflow.run_directory
    run.mkdir(parents=True)
    (run / "x").write_text("x")
    file = {"time": 10**18, "sha256": sha256_of(run / "x")}
    (run / seal.SEAL).write_text(json.dumps({"files": {"x": file}, "records": {"../../evil": "evil"}}))
    printed = workflow("--dry-run", ok=False)
    assert "error: data/runs/small/seal.json holds '../../evil'" in printed
    assert "Traceback" not in printed
    assert not (workflow.directory.parent / "evil").exists()


def test_a_run_that_is_not_there():
    with pytest.raises(PipelineError, match="data/runs/yours does not exist"):
        seal.seal("yours")
