"""The result tables of README.md and docs/, from the JSON files of suites that they name.

`python -m pipeline.report.update_docs` writes again what stands between two comments,

    <!-- After the last round: data/results/table.json -->
    <!-- end -->

as the tables of that title (`tables.tables`) from the rows of that file, or of several.
"""

import argparse
import re
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.report.tables import markdown, tables
from pipeline.storage.atomic_files import read_json, write_text

BLOCK = re.compile(r"(<!-- ([^:\n]+): (\S+\.json(?: \S+\.json)*) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, root: Path) -> str:
    """The text with every table as the files under `root` have it now.

    Raises:
        PipelineError: for a file that is missing or no suite's, or one that gives no such table.
    """

    def block(match: re.Match[str]) -> str:
        title, files = match[2], match[3]
        rows = [row for name in files.split() for row in read_json(root / name, "rows")["rows"]]
        found = {name: cells for name, cells in tables(rows).items() if name.startswith(title)}
        if not found:
            raise PipelineError(f"'{title}' is no table of {files}, which has: {', '.join(tables(rows))}")
        shown = ((f"{name}:\n\n" if name != title else "") + markdown(cells) for name, cells in found.items())
        return match[1] + "\n".join(shown) + match[4]

    return BLOCK.sub(block, text)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
    parser.add_argument("files", type=Path, nargs="*", default=default, help="texts to fill in (README.md, docs/*.md)")
    for path in parser.parse_args().files:
        try:
            before = path.read_text()
            after = filled(before, Path())
            if after != before:
                write_text(path, after)
                print(f"{path}: new results")
        except (OSError, PipelineError) as error:
            parser.exit(1, f"error: {path}: {error}\n")


if __name__ == "__main__":
    main()
