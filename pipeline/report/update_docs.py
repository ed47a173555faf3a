"""Fills the result tables of README.md and docs/ from the JSON files of suites.

`python -m pipeline.report.update_docs` replaces the text between two comments,

    <!-- After the last round: data/results/table.json -->
    <!-- end -->

by the tables with that title (`tables.suite_tables`), made of the rows of one or several files.
"""

import argparse
import re
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.report.tables import markdown, suite_tables
from pipeline.storage.atomic_files import read_json, write_text

BLOCK = re.compile(r"(<!-- ([^:\n]+): (\S+\.json(?: \S+\.json)*) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_current_tables(text: str, root: Path) -> str:
    """The text with every table made anew from the files under `root`.

    Raises:
        PipelineError: if a file is missing or does not hold a suite, or the suite has no table of that title.
    """

    def block(match: re.Match[str]) -> str:
        title, files = match[2], match[3]
        rows = [row for name in files.split() for row in read_json(root / name, "rows")["rows"]]
        tables = suite_tables(rows)
        found = {name: cells for name, cells in tables.items() if name.startswith(title)}
        if not found:
            raise PipelineError(f"{files} has no table '{title}', only: {', '.join(tables)}")
        shown = ((f"{name}:\n\n" if name != title else "") + markdown(cells) for name, cells in found.items())
        return match[1] + "\n".join(shown) + match[4]

    return BLOCK.sub(block, text)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
    parser.add_argument("files", type=Path, nargs="*", default=default, help="files to update (README.md, docs/*.md)")
    for path in parser.parse_args().files:
        try:
            before = path.read_text(encoding="utf-8")
            after = with_current_tables(before, Path())
            if after != before:
                write_text(path, after)
                print(f"{path}: updated")
        except (OSError, PipelineError) as error:
            parser.exit(1, f"error: {path}: {error}\n")


if __name__ == "__main__":
    main()
