"""Variable heavy domains with their IMGT numbering: those of this package, or those of a file of one's own.

A file is tab- or comma-separated with the columns `name` and `sequence`. Where it lacks `v_gene` and `numbering`, the
package anarcism (extra `antibody`) finds them.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.errors import PipelineError

SHIPPED = Path(__file__).with_name("scaffolds.tsv")
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
CDR_H3 = range(105, 118)
"""IMGT positions of the third complementarity-determining region, without the C 104 and W 118 around it."""
INSERTIONS = "ABCDEFGHIJKLMNOP"
"""Letters that number the residues between two positions, as in 111A."""
CONSERVED = {"23": "C", "41": "W", "104": "C", "118": "W"}
"""What IMGT numbering puts at these positions of a VH: a sequence without them is numbered wrongly, or is no VH."""


@dataclass(frozen=True)
class Scaffold:
    """A VH; `family` is that of its V gene, such as IGHV3, and `numbering` the IMGT position of each residue."""

    name: str
    family: str
    sequence: str
    numbering: tuple[str, ...]

    @property
    def cdr_h3(self) -> slice:
        """Where the third CDR stands in the sequence."""
        inside = [at for at, position in enumerate(self.numbering) if int(position.rstrip(INSERTIONS)) in CDR_H3]
        return slice(inside[0], inside[-1] + 1) if inside else slice(0)


def read_scaffolds(path: str | None) -> list[Scaffold]:
    """The scaffolds of a file, by default of this package.

    Raises:
        PipelineError: for a file that cannot be read, and for a row that is no VH or not numbered; names file and row.
    """
    return list(_read(Path(path) if path else SHIPPED))


@cache
def _read(path: Path) -> tuple[Scaffold, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin a file with a byte order mark
    except (OSError, ValueError) as error:
        raise PipelineError(f"task.scaffolds: cannot read {path} ({error})") from error
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    rows = list(csv.DictReader(lines, delimiter="\t" if lines and "\t" in lines[0] else ","))
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(_scaffold(row))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise PipelineError(f"task.scaffolds: {path}, row {number}: {reason}") from error
    if len({scaffold.name for scaffold in found}) != len(found) or not found:
        raise PipelineError(f"task.scaffolds: {path} must have rows, each with a name of its own")
    return tuple(found)


def _scaffold(row: Mapping[str, str]) -> Scaffold:
    name, sequence = row["name"].strip(), row["sequence"].strip().upper()
    if wrong := set(sequence) - set(RESIDUES):
        raise ValueError(f"'{name}' holds {', '.join(sorted(wrong))}, which is none of the 20 amino acids")
    gene, numbering = row.get("v_gene") or "", tuple(_expanded(row.get("numbering") or ""))
    if not gene or not numbering:
        gene, numbering = number_vh(sequence)
    if len(numbering) != len(sequence):
        raise ValueError(f"'{name}' has {len(sequence)} residues, but its numbering {len(numbering)}")
    at = dict(zip(numbering, sequence, strict=True))
    for position, residue in CONSERVED.items():
        if at.get(position) != residue:
            raise ValueError(f"'{name}' has {at.get(position, 'nothing')} at IMGT {position}, where a VH has {residue}")
    scaffold = Scaffold(name, gene.split("-")[0], sequence, numbering)
    if sequence[scaffold.cdr_h3] == "":
        raise ValueError(f"'{name}' has no CDR-H3")
    return scaffold


def _expanded(numbering: str) -> Iterator[str]:
    """The positions that a text such as "1-9,11-30,112A,112" lists."""
    for part in filter(None, numbering.split(",")):
        first, _, last = part.partition("-")
        yield from map(str, range(int(first), int(last) + 1)) if last else [first]


def number_vh(sequence: str) -> tuple[str, tuple[str, ...]]:
    """(nearest V gene, IMGT positions) of a VH.

    Raises:
        PipelineError: if anarcism is not installed.
        ValueError: if the sequence is not one VH from end to end.
    """
    try:
        import anarcism  # noqa: PLC0415  (of the extra)
    except ImportError:
        raise PipelineError("to number sequences, install anarcism: pip install -e '.[antibody]'") from None
    domains = anarcism.number_sequence(sequence, assign_germline=True).domains
    if len(domains) != 1 or domains[0].chain_type != "H" or len(domains[0].numbering) != len(sequence):
        raise ValueError("the sequence is not one VH from end to end")
    labels = tuple(f"{residue.position}{residue.insertion_code.strip()}" for residue in domains[0].numbering)
    germline = domains[0].germline
    return (germline.v_gene or "" if germline else "unknown"), labels
