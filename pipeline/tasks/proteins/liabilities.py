"""Sequence liabilities of a protein: motifs that degrade or vary in manufacture, and the net charge.

The motifs are those that developability reviews list for complementarity-determining regions (Jarasch et al. 2015,
J. Pharm. Sci. 104:1885; Raybould et al. 2019, PNAS 116:4025; Xu et al. 2019, mAbs 11:239).
"""

import re
from collections.abc import Mapping

MOTIFS: Mapping[str, str] = {
    "N-glycosylation": "N[^P][ST]",  # the sequon (Marshall 1972)
    "deamidation": "N[GS]",  # of asparagine through a succinimide (Robinson and Robinson 2001)
    "isomerisation": "D[GSP]",  # of aspartate by the same way; DP is also cleaved in acid
    "free cysteine": "C",
    "oxidation of M": "M",
    "oxidation of W": "W",
}
PATTERNS = {name: re.compile(f"(?=({motif}))") for name, motif in MOTIFS.items()}

PH = 7.4
POSITIVE = {"K": 10.0, "R": 12.0, "H": 5.98}
NEGATIVE = {"D": 4.05, "E": 4.45, "C": 9.0, "Y": 10.0}
"""pK of the side chains (Bjellqvist et al. 1993, as in ExPASy and Biopython's ProtParam)."""
AMINO_TERMINUS, CARBOXY_TERMINUS = 7.5, 3.55
OF_AMINO_TERMINUS = {"A": 7.59, "M": 7.0, "S": 6.93, "P": 8.36, "T": 6.82, "V": 7.44, "E": 7.7}
OF_CARBOXY_TERMINUS = {"D": 4.55, "E": 4.75}


def liabilities(sequence: str, region: slice) -> list[tuple[str, int, int]]:
    """(motif's name, start, end) of every motif that has a residue in the region, overlapping ones too."""
    found = []
    for name, pattern in PATTERNS.items():
        for match in pattern.finditer(sequence):
            start, end = match.span(1)
            if start < region.stop and end > region.start:
                found.append((name, start, end))
    return found


def net_charge(sequence: str, ph: float = PH) -> float:
    """Σ 1/(1 + 10^(pH - pK)) of basic groups - Σ 1/(1 + 10^(pK - pH)) of acidic ones, the two ends of the chain among
    them; every group on its own, as if the chain were unfolded."""
    basic = [POSITIVE[residue] for residue in sequence if residue in POSITIVE]
    acidic = [NEGATIVE[residue] for residue in sequence if residue in NEGATIVE]
    basic.append(OF_AMINO_TERMINUS.get(sequence[0], AMINO_TERMINUS))
    acidic.append(OF_CARBOXY_TERMINUS.get(sequence[-1], CARBOXY_TERMINUS))
    return sum(1 / (1 + 10 ** (ph - pk)) for pk in basic) - sum(1 / (1 + 10 ** (pk - ph)) for pk in acidic)
