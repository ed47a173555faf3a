"""Decides whether finished jobs are up to date where Snakemake has no record of them, or an older one.

Snakemake keeps in `.snakemake` how each file was made, and trusts a file without a record. There is none if that
directory was lost or data/ was copied into a fresh clone, and a wrong one if other files were copied or fetched over
those it describes. So every stage writes digests of its settings and code into its timing. Before Snakemake looks, the
digests of each timing that is newer than its record are compared with what the run asks for now. If they agree, the
record is removed; if not, it is replaced by one that makes the job stale.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.storage.atomic_files import write_text
from pipeline.storage.provenance import MadeWith, origin_of

RECORDS = Path(".snakemake/metadata")
STALE = json.dumps({"record_format_version": 6, "params": ["made with other settings, code or data"]})
"""A record whose parameters are no job's."""
LONGEST_NAME = 254


def judge(timings: Iterable[Path], rules: Iterable[Any], expected: Callable[[str], MadeWith | None]) -> None:
    """Correct Snakemake's records of the jobs with these timings.

    Args:
        rules: of the workflow; those with an output called `timing`.
        expected: a stage -> what a job of it would be made with now, None if there is no such stage.
    """
    for path in filter(Path.exists, timings):
        if _recorded(path):
            continue
        found = origin_of(path)
        current = bool(found) and found == expected(found.get("stage", ""))
        for record in map(record_of, outputs_beside(path, rules)):
            if current:
                record.unlink(missing_ok=True)
            else:
                record.parent.mkdir(parents=True, exist_ok=True)
                write_text(record, STALE)


def outputs_beside(timing: Path, rules: Iterable[Any]) -> list[Path]:
    """All outputs of the job that wrote a timing: Snakemake ignores the records of a job if one output has none."""
    for rule in rules:
        pattern = getattr(rule.output, "timing", None)
        if found := pattern and pattern.match(str(timing)):
            return [Path(output.apply_wildcards(found.groupdict())) for output in rule.output]
    return []


def record_of(output: Path) -> Path:
    """Where Snakemake keeps its record of an output: the path in base64, in parts if it is long."""
    name = urlsafe_b64encode(str(output).encode()).decode()
    parts = [name[start : start + LONGEST_NAME] for start in range(0, len(name), LONGEST_NAME)]
    return RECORDS.joinpath(*("@" + part for part in parts[:-1]), parts[-1])


def _recorded(path: Path) -> bool:
    """Whether Snakemake has written a record of this output after the output was last written, copied or fetched: ctime
    tells, which no program sets."""
    record = record_of(path)
    if not record.exists() or record.stat().st_size == len(STALE):
        return False
    return record.stat().st_mtime_ns >= path.stat().st_ctime_ns
