"""The antibody task: numbering, liabilities, charge, judges, splits, against their definitions or another package."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import antibody
from pipeline.tasks.antibody import Antibody, cdr_of, item_of, items, judge, marks, render, score
from pipeline.tasks.proteins import humanness
from pipeline.tasks.proteins.liabilities import MOTIFS, liabilities, net_charge
from pipeline.tasks.proteins.scaffolds import CONSERVED, Scaffold, number_vh, read_scaffolds

SCAFFOLDS = read_scaffolds(None)
BEVACIZUMAB = next(scaffold for scaffold in SCAFFOLDS if scaffold.name == "bevacizumab")


@pytest.mark.parametrize("scaffold", SCAFFOLDS, ids=lambda scaffold: scaffold.name)
def test_shipped_numbering_follows_imgt(scaffold):
    """Conserved residues, rising positions, and a CDR-H3 between C 104 and W 118; the same as anarcism finds."""
    at = dict(zip(scaffold.numbering, scaffold.sequence, strict=True))
    assert {position: at[position] for position in CONSERVED} == CONSERVED
    numbers = [int(position.rstrip("ABCDEFGHIJKLMNOP")) for position in scaffold.numbering]
    assert numbers == sorted(numbers) and numbers[0] == 1 and numbers[-1] == 128
    region = scaffold.cdr_h3
    assert scaffold.sequence[region.start - 1] == "C" and scaffold.sequence[region.stop] == "W"
    assert 5 <= region.stop - region.start <= 25
    pytest.importorskip("anarcism")
    gene, numbering = number_vh(scaffold.sequence)
    assert (gene.split("-")[0], numbering) == (scaffold.family, scaffold.numbering)


def test_cdrs_are_those_of_the_literature():
    """IMGT's own entries of bevacizumab and pembrolizumab, from position 105 to 117."""
    found = {scaffold.name: scaffold.sequence[scaffold.cdr_h3] for scaffold in SCAFFOLDS}
    assert found["bevacizumab"] == "AKYPHYYGSSHWYFDV" and found["pembrolizumab"] == "ARRDYRFDMGFDY"


def test_a_file_of_ones_own(tmp_path):
    """With numbering or without; each mistake is one line that names the row."""
    pytest.importorskip("anarcism")
    path = tmp_path / "mine.csv"
    path.write_text(f"name,sequence\nmine,{BEVACIZUMAB.sequence}\n")
    (mine,) = read_scaffolds(str(path))
    assert mine == Scaffold("mine", "IGHV3", BEVACIZUMAB.sequence, BEVACIZUMAB.numbering)
    rows = {
        "mine,EVQLX\n": "row 1: 'mine' holds X, which is none of the 20 amino acids",
        "mine,DIQMTQSPSSLSASVGDRVTITC\n": "row 1: the sequence is not one VH",
        "": "must have rows, each with a name of its own",
    }
    for number, (row, message) in enumerate(rows.items()):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"name,sequence\n{row}")
        with pytest.raises(PipelineError, match=message):
            read_scaffolds(str(path))
    (tmp_path / "no.csv").write_text("name\nmine\n")
    with pytest.raises(PipelineError, match="row 1: no column 'sequence'"):
        read_scaffolds(str(tmp_path / "no.csv"))
    with pytest.raises(PipelineError, match="cannot read"):
        read_scaffolds(str(tmp_path / "none.csv"))


def test_a_numbered_file_of_a_spreadsheet(tmp_path):
    """It begins with a byte order mark. A VH whose CDR-H3 is empty is refused by its row."""
    cdr, whole = BEVACIZUMAB.cdr_h3, slice(None)

    def row(name: str, *parts: slice) -> str:
        sequence = "".join(BEVACIZUMAB.sequence[part] for part in parts)
        numbering = ",".join(position for part in parts for position in BEVACIZUMAB.numbering[part])
        return f'{name},{sequence},IGHV3-23,"{numbering}"\n'

    rows = [
        "name,sequence,v_gene,numbering\n",
        row("mine", whole),
        row("bare", slice(cdr.start), slice(cdr.stop, None)),
    ]
    for name, lines in {"one.csv": rows[:2], "two.csv": rows}.items():
        (tmp_path / name).write_text("".join(lines), encoding="utf-8-sig")
    assert read_scaffolds(str(tmp_path / "one.csv"))[0].numbering == BEVACIZUMAB.numbering
    with pytest.raises(PipelineError, match=r"two.csv, row 2: 'bare' has no CDR-H3"):
        read_scaffolds(str(tmp_path / "two.csv"))


def test_families_are_split():
    made = items(Antibody(name="antibody", samples=2), 0)
    family = {scaffold.name: scaffold.family for scaffold in SCAFFOLDS}
    train, test = ({family[item.group] for item in made[split]} for split in ("train", "test"))
    assert train == {"IGHV3"} and test == {"IGHV1", "IGHV4", "IGHV5"}
    assert len(made["train"]) == 12 and len(made["test"]) == 2 * 10
    assert len(SCAFFOLDS) >= 20 and len({item.group for item in made["test"]}) >= 8
    for item in made["train"] + made["test"]:
        region, parent = cdr_of(item), item.reference
        assert item.start == parent[: region.start] + "_" * (region.stop - region.start) + parent[region.stop :]
    with pytest.raises(PipelineError, match="no scaffold has the family or name IGHV9"):
        items(Antibody(name="antibody", held_out=["IGHV9"]), 0)


@pytest.mark.parametrize(
    ("cdr", "names"),
    [
        ("ARNATW", ["N-glycosylation", "oxidation of W"]),
        ("ARNPTY", []),  # no sequon with P in the middle
        ("ARNNSS", ["N-glycosylation", "N-glycosylation", "deamidation"]),  # overlapping sequons both count
        ("ARNGSY", ["N-glycosylation", "deamidation"]),
        ("ADGDSDPY", ["isomerisation"] * 3),
        ("ACMY", ["free cysteine", "oxidation of M"]),
        ("ARDYAD", ["isomerisation"]),  # with the first residue behind the CDR
        ("ARKLIY", []),
    ],
)
def test_motifs(cdr, names):
    before, after = "EVNGDSCMW", "GSNGCMWDS"  # their own motifs do not count
    found = liabilities(before + cdr + after, slice(len(before), len(before) + len(cdr)))
    assert sorted(name for name, _, _ in found) == sorted(names)
    assert set(names) <= set(MOTIFS)


@pytest.mark.parametrize("sequence", [scaffold.sequence for scaffold in SCAFFOLDS] + ["MKCYHED", "DRKW", "PE"])
def test_charge_is_that_of_protparam(sequence):
    analysis = pytest.importorskip("Bio.SeqUtils.ProtParam").ProteinAnalysis(sequence)
    for ph in (7.4, 4.0, 10.0):
        assert net_charge(sequence, ph) == pytest.approx(analysis.charge_at_pH(ph), abs=1e-9)


def test_the_reward_is_its_formula():
    item = item_of(BEVACIZUMAB)
    region = cdr_of(item)
    clean, bad = ("AKYPHYYGSSHAYFEV", "ANGSHYYGMSCWYFDS")
    for cdr, motifs in ((clean, 0), (bad, 6)):
        answer = BEVACIZUMAB.sequence[: region.start] + cdr + BEVACIZUMAB.sequence[region.stop :]
        found, excess = score(3.0, item, answer), abs(net_charge(answer) - 3)
        assert found["liabilities"] == motifs and found["no_liability"] == (motifs == 0)
        assert found["reward"] == pytest.approx(-motifs - excess / 2)
        assert found["in_charge_range"] == (excess <= 1)


def test_judges(monkeypatch, capsys):
    """`distinct` counts the first of equal answers to a scaffold; without promb, OASis is left out with a note."""
    mine, other = item_of(BEVACIZUMAB), item_of(SCAFFOLDS[0])
    changed = BEVACIZUMAB.sequence.replace("AKYPHY", "ARYPHF")
    answers = [mine.reference, changed, changed, other.reference]
    monkeypatch.setattr(antibody, "installed", lambda: False)
    verdicts = judge([mine, mine, mine, other], answers)
    assert [verdict["distinct"] for verdict in verdicts] == [1, 1, 0, 1]
    assert [verdict["changed_residues"] for verdict in verdicts] == [0, 2, 2, 0]
    assert "oasis" not in verdicts[0] and "note: no OASis humanness without promb" in capsys.readouterr().out


def test_humanness_is_the_share_of_known_peptides():
    spec = find_spec("promb")
    if spec is None:
        pytest.skip("promb is not installed")
    sequences = [scaffold.sequence for scaffold in SCAFFOLDS[:3]] + ["W" * 20]
    shares = humanness.humanness(sequences)
    assert shares[-1] == 0 and all(0.5 < share < 1 for share in shares[:-1])
    with gzip.open(Path(spec.origin).parent / humanness.FILE, "rt") as file:
        known = [next(file).strip() for _ in range(3)]
    assert humanness.humanness([known[0], known[2] + "W"]) == [1.0, 0.5]


def test_the_report_shows_the_cdr_what_differs_and_what_is_liable():
    item = item_of(BEVACIZUMAB)
    answer = BEVACIZUMAB.sequence.replace("AKYPHYYGSSHWYFDV", "AKYPNGYGSSHAYFDV")
    lines = ["YYC________________WGQG", "YYCAKYPHYYGSSHWYFDVWGQG", "YYCAKYPNGYGSSHAYFDVWGQG"]
    cdr, differ, liable = "CDR-H3", "differs from the parent", "liability"
    wanted = [
        {cdr: [*range(3, 19)], differ: [], liable: []},
        {cdr: [*range(3, 19)], differ: [], liable: [14]},
        {cdr: [*range(3, 19)], differ: [7, 8, 14], liable: [7, 8]},
    ]
    for text, line, found in zip((item.start, item.reference, answer), lines, wanted, strict=True):
        assert (render(item, text), marks(item, text)) == (line, found)
