"""Fills the result tables of README.md and docs/, and draws the figures there, from the JSON files of suites.

`python -m pipeline.report.update_docs` replaces the text between two comments,

    <!-- After the last round: data/results/antibody.json -->
    <!-- end -->

by the tables whose title begins so (`suite_tables` and `estimator_tables` in tables.py), made of the rows of one or
several files. Where several have the same family of runs, with other seeds, its numbers are pooled.
The figures are those of `FIGURES`.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.report.figures import mean_curve
from pipeline.report.json_types import FamilyRow
from pipeline.report.pooled import pooled
from pipeline.report.run_metrics import metric_values
from pipeline.report.svg import beside, standalone
from pipeline.report.tables import estimator_tables, markdown, suite_tables
from pipeline.storage.atomic_files import read_json, write_text

BLOCK = re.compile(r"(<!-- ([^:\n]+): (\S+\.json(?: \S+\.json)*) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_current_tables(text: str, root: Path) -> str:
    """The text with every table made anew from the files under `root`.

    Raises:
        PipelineError: if a file is missing or does not hold a suite, the suite has no table of that title, or two files
            have the same run.
    """

    def block(match: re.Match[str]) -> str:
        title, results = match[2], [read_json(root / name, "rows") for name in match[3].split()]
        tables = suite_tables(pooled([row for result in results for row in result["rows"]]))
        for result in results:
            tables |= estimator_tables(result.get("estimators", {}))
        found = {name: cells for name, cells in tables.items() if name.startswith(title)}
        if not found:
            raise PipelineError(f"{match[3]} has no table '{title}', only: {', '.join(tables)}")
        shown = ((f"{name}:\n\n" if name != title else "") + markdown(cells) for name, cells in found.items())
        return match[1] + "\n".join(shown) + match[4]

    return BLOCK.sub(block, text)


def learning_curve(rows: Sequence[FamilyRow]) -> str:
    """Greedy decoding of the first family over rounds."""
    names = [name for name in reversed(metric_values(rows[0]["final"])) if name in rows[0]["curve"][0]]
    return standalone(beside(mean_curve(rows[0]["curve"], names, int(rows[0]["n"])), width=6.4, height=3.2))


FIGURES = {
    "docs/learning_curve.svg": ("data/results/seeds.json", learning_curve),
}
"""Figure -> the file that it shows, and how."""


def current_figure(name: str, root: Path) -> str:
    """The SVG of a figure, drawn anew from its file under `root`."""
    source, draw = FIGURES[name]
    return draw(read_json(root / source, "rows")["rows"])


def update(path: Path, root: Path) -> None:
    """Write what a text or figure should hold, if it holds something else."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = current_figure(str(path), root) if str(path) in FIGURES else with_current_tables(before, root)
    if after != before:
        write_text(path, after)
        print(f"{path}: updated")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [Path("README.md"), *sorted(Path("docs").glob("*.md")), *map(Path, FIGURES)]
    parser.add_argument("files", type=Path, nargs="*", default=default, help="files to update (all of them)")
    for path in parser.parse_args().files:
        try:
            update(path, Path())
        except (OSError, PipelineError) as error:
            parser.exit(1, f"error: {path}: {error}\n")


if __name__ == "__main__":
    main()
