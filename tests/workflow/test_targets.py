"""What Snakemake and `python -m pipeline.workflow.targets` say of the runs and suites of params.yaml."""

import subprocess
import sys

from pipeline.settings.params_file import parse_params, read_params
from pipeline.workflow.targets import descriptions, listing
from tests.conftest import ROOT
from tests.small_workflow import SMALL

SUITE = {"runs": ["small"], "seeds": [0, 1]}


def test_every_run_and_suite_of_this_repository_is_described():
    found = descriptions(read_params(ROOT / "params.yaml"))
    assert [name for name, text in found.items() if not text] == []
    assert found["sudoku-dam-seed1"] == "a run of the suite seeds"


def test_runs_with_the_same_text_share_a_line_and_those_of_suites_are_left_out():
    describe = {"smaller": "quick", "s*": "all others"}
    runs = {"small": {}, "slow": {"seed": 2}, "smaller": {"rounds": 1}}
    text = listing(parse_params({**SMALL, "runs": runs, "suites": {"both": SUITE}, "describe": describe}))
    lines = [" ".join(line.split()) for line in text.splitlines()[1:] if line]
    assert lines == ["suites", "both", "runs", "s* all others", "small slow", "smaller quick"]


def test_snakemake_lists_the_texts(workflow):
    workflow.params |= {"suites": {"both": SUITE}, "describe": {"both": "two seeds", "small": "seconds"}}
    listed = set(workflow("--list-rules").splitlines())
    targets = {"both (two seeds)", "small (seconds)", "small-seed1 (a run of the suite both)"}
    assert targets | {"all (The default run.)", "report (A run's report, metrics and figures.)"} < listed


def test_a_wrong_file_is_one_line(tmp_path):
    command = [sys.executable, "-m", "pipeline.workflow.targets", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: cannot read") and done.stderr.count("\n") == 1
