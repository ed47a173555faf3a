"""What a stage's digest covers beside the modules that it imports: tables and templates."""

from pathlib import Path

import pipeline
from pipeline.settings.run import Run
from pipeline.workflow import code_digest
from tests.conftest import ROOT

HERE = Path(pipeline.__file__).parent


def digest(run: Run) -> str:
    """As the next Snakemake computes it."""
    for cached in (code_digest._digest, code_digest._read, code_digest._files_beside):
        cached.cache_clear()
    return code_digest.code_digest("prepare", run)


def test_a_table_that_a_task_of_ones_own_reads_beside_itself(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "with_table"
    package.mkdir()
    text = (ROOT / "examples" / "words.py").read_text()
    (package / "words.py").write_text(
        f'{text}\nTABLE = Path(__file__).with_name("table.csv")\n'.replace(
            "import random", "import random\nfrom pathlib import Path"
        )
    )
    run = Run(task={"name": "with_table.words"})
    without = digest(run)
    (package / "table.csv").write_text("1\n")
    (package / "notes.csv").write_text("1\n")
    before = digest(run)
    assert before != without
    (package / "notes.csv").write_text("2\n")
    assert digest(run) == before
    (package / "table.csv").write_text("2\n")
    assert digest(run) not in (before, without)


def test_tables_and_templates_of_this_package():
    """All files of the package that are no modules, but for what the Snakefile itself includes."""
    modules = sorted(HERE.rglob("*.py"))
    found = {file for module in modules for file in code_digest._files_beside(module, HERE)}
    others = {file for file in HERE.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc", ".smk")}
    assert found == others


def test_a_task_of_ones_own_in_another_encoding(tmp_path, monkeypatch):
    """As Python reads it: with a byte order mark, or in the encoding that its first line names."""
    monkeypatch.syspath_prepend(tmp_path)
    text = (ROOT / "examples" / "words.py").read_text()
    for name, written in {
        "with_mark": text.encode("utf-8-sig"),
        "latin": f"# coding: latin-1\n# é\n{text}".encode("latin-1", "ignore"),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.py").write_bytes(written)
        assert digest(Run(task={"name": f"{name}.words"}))
