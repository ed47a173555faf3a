"""The published tables are those of the published files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.report.seed_average import suite_result
from pipeline.report.update_docs import BLOCK, FIGURES, current_figure, with_current_tables
from tests.conftest import ROOT
from tests.report.suites import RUNS

TEXTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PUBLISHED = [path for path in TEXTS if BLOCK.search(path.read_text())]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_published_tables_are_those_of_the_files_they_name(path):
    """`python -m pipeline.report.update_docs` brings them together again."""
    assert with_current_tables(path.read_text(), ROOT) == path.read_text()


@pytest.mark.parametrize("name", FIGURES)
def test_published_figures_are_those_of_the_files_they_show(name):
    """And not only on white: on a dark page they are drawn in the colours for it."""
    text = (ROOT / name).read_text()
    assert text == current_figure(name, ROOT)
    assert "@media (prefers-color-scheme: dark)" in text


def test_readme_has_result_tables():
    assert ROOT / "README.md" in PUBLISHED


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "suite.json").write_text(json.dumps(suite_result("suite", RUNS, {})))
    (tmp_path / "text.md").write_text("before\n<!-- After the last round: suite.json -->\nold\n<!-- end -->\nafter\n")
    return tmp_path / "text.md"


def test_the_command_fills_in_what_the_file_says(text):
    """Once; the second time there is nothing to do. Another file's numbers change the text."""
    command = [sys.executable, "-m", "pipeline.report.update_docs", "text.md"]
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    said = [subprocess.check_output(command, cwd=text.parent, env=env, text=True) for _ in range(2)]
    assert said == ["text.md: updated\n", ""]
    lines = text.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    assert any(line.startswith("| one | 2 | 0.0 ± 0.0 % | 40.0 ± 20.0 % |") for line in lines)
    (text.parent / "suite.json").write_text(json.dumps(suite_result("suite", RUNS[:1], {})))
    assert with_current_tables(text.read_text(), text.parent) != text.read_text()


def test_a_missing_file_is_one_line(text):
    (text.parent / "suite.json").unlink()
    with pytest.raises(PipelineError, match=r"cannot read .*suite\.json"):
        with_current_tables(text.read_text(), text.parent)


def test_an_unknown_table(text):
    """The message names the tables that the file has."""
    with pytest.raises(PipelineError, match=r"suite\.json.*'By length'.*After the last round, .*At the same compute"):
        with_current_tables(text.read_text().replace("After the last round", "By length"), text.parent)
