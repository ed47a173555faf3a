"""Finished jobs are judged by their timings where Snakemake has no record of them, or one of other files."""

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.io import apply_wildcards, regex_from_filepattern
from snakemake.persistence.file import FilePersistence

from pipeline.workflow.records import RECORDS, STALE, judge, record_of

TIMING = Path("data/runs/mine/timings/train_001.json")
POLICY = Path("data/runs/mine/round_001/policy")
NOW = {"stage": "train", "settings": "1", "code": "2"}


class Pattern(str):
    """An output of a rule, with the two methods of Snakemake's own that are used."""

    def match(self, path: str) -> re.Match[str] | None:
        return re.match(regex_from_filepattern(self), path)

    def apply_wildcards(self, wildcards: dict[str, str]) -> str:
        return apply_wildcards(self, wildcards)


class Outputs(list):
    timing = Pattern("data/runs/{run}/timings/train_{round}.json")


RULES = [
    SimpleNamespace(output=[]),
    SimpleNamespace(output=Outputs([Pattern("data/runs/{run}/round_{round}/policy"), Outputs.timing])),
]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TIMING.parent.mkdir(parents=True)


def finished(origin: object) -> None:
    TIMING.write_text(json.dumps({"origin": origin}))


def record(text: str = "made by Snakemake") -> Path:
    time.sleep(0.01)
    path = record_of(TIMING)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["x", "data/runs/" + "long" * 100 + "/timings/train_001.json"])
def test_records_lie_where_snakemake_looks(name):
    RECORDS.mkdir(parents=True)
    expected = FilePersistence(path=Path.cwd() / ".snakemake")._record_path(str(RECORDS), name)
    assert record_of(Path(name)) == Path(expected)


@pytest.mark.parametrize("origin", [{**NOW, "settings": "other"}, {**NOW, "code": "other"}, {}, [], None, {"stage": 1}])
def test_without_a_record_the_timing_decides(origin):
    finished(NOW)
    judge([TIMING], RULES, {"train": NOW}.get)
    assert not record_of(TIMING).exists()
    finished(origin)
    judge([TIMING], RULES, {"train": NOW}.get)
    assert record_of(TIMING).read_text() == record_of(POLICY).read_text() == STALE
    finished(NOW)
    judge([TIMING], RULES, {"train": NOW}.get)
    assert not record_of(TIMING).exists() and not record_of(POLICY).exists()


def test_a_job_that_was_stale_is_judged_again():
    finished(NOW)
    judge([TIMING], RULES, {"train": {**NOW, "settings": "tried"}}.get)
    judge([TIMING], RULES, {"train": NOW}.get)
    assert not record_of(TIMING).exists()


def test_snakemakes_own_record_of_this_very_file_decides():
    finished({**NOW, "settings": "other"})
    path = record()
    judge([TIMING], RULES, {"train": NOW}.get)
    assert path.read_text() == "made by Snakemake"


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_record_of_the_file_that_was_there_before_does_not(keep_times):
    finished(NOW)
    was = TIMING.stat().st_mtime_ns
    path = record()
    time.sleep(0.01)
    finished({**NOW, "settings": "other"})
    if keep_times:
        os.utime(TIMING, ns=(was, was))
    judge([TIMING], RULES, {"train": NOW}.get)
    assert path.read_text() == STALE
