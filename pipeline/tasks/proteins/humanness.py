"""OASis: how much of a sequence occurs in human antibody repertoires (Prihoda et al. 2022, mAbs 14:2020203).

The package promb (extra `antibody`) carries the 5.7 million 9-mers that at least 10 % of the subjects of the Observed
Antibody Space have. Only those that are asked for are kept: two seconds, where promb builds its whole set in 14.
"""

import gzip
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

FILE = "resources/OASis_9mers_v1_10perc_subjects.txt.gz"
LENGTH = 9


def installed() -> bool:
    return find_spec("promb") is not None


def humanness(sequences: Sequence[str]) -> list[float]:
    """The share of each sequence's 9-mers that are in the data base."""
    spec = find_spec("promb")
    assert spec and spec.origin
    peptides = [[sequence[at : at + LENGTH] for at in range(len(sequence) - LENGTH + 1)] for sequence in sequences]
    with gzip.open(Path(spec.origin).parent / FILE, "rt", encoding="ascii") as file:
        known = {peptide for of_one in peptides for peptide in of_one}.intersection(file.read().split())
    return [sum(peptide in known for peptide in of_one) / len(of_one) for of_one in peptides]
