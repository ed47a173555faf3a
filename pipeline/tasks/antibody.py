"""Redesign of an antibody's CDR-H3: fewer sequence liabilities and a moderate charge, judged by humanness.

An item is a variable heavy domain (VH) whose third CDR, found by IMGT numbering, is masked; the answer is the whole VH.

    r = -(number of liability motifs in the CDR) - ½ |net charge of the VH - `charge`|

with the motifs N[^P][ST], N[GS], D[GSP], C, M and W. Scaffolds of the germline families in `held_out` are tested on and
never trained on. Judges that no reward sees, computed when a policy is evaluated: OASis humanness, whether an answer is
new among those of its scaffold, and how far it is from the parent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field

from pipeline.errors import PipelineError
from pipeline.tasks.base import Item, Task, TaskSettings
from pipeline.tasks.proteins.humanness import humanness, installed
from pipeline.tasks.proteins.liabilities import liabilities, net_charge
from pipeline.tasks.proteins.scaffolds import RESIDUES, Scaffold, read_scaffolds

HOLE = "_"
TOLERANCE = 1.0
"""How far from `charge` the net charge may be to count as in range."""


class Antibody(TaskSettings):
    """Which sequences, which of them are held out, and how many answers each of these gets."""

    scaffolds: str | None = Field(default=None, description="a file of one's own, see docs/antibody.md")
    held_out: tuple[str, ...] = Field(default=("IGHV1", "IGHV4", "IGHV5"), description="families or names")
    samples: int = Field(default=64, ge=1, description="answers to each held-out scaffold")
    charge: float = 3.0


def items(settings: Antibody, seed: int) -> dict[str, list[Item]]:
    """Each scaffold of the training families once; each held-out one `samples` times, as its own group."""
    chosen = set(settings.held_out)
    scaffolds = read_scaffolds(settings.scaffolds)
    if unknown := chosen - {value for scaffold in scaffolds for value in (scaffold.name, scaffold.family)}:
        raise PipelineError(f"task.held_out: no scaffold has the family or name {', '.join(sorted(unknown))}")
    held_out = [scaffold for scaffold in scaffolds if chosen & {scaffold.name, scaffold.family}]
    train = [item_of(scaffold) for scaffold in scaffolds if scaffold not in held_out]
    return {
        "base": [replace(item, start="") for item in train],
        "train": train,
        "test": [item_of(scaffold) for scaffold in held_out for _ in range(settings.samples)],
    }


def item_of(scaffold: Scaffold) -> Item:
    """A VH without its CDR-H3."""
    region, sequence = scaffold.cdr_h3, scaffold.sequence
    start = sequence[: region.start] + HOLE * (region.stop - region.start) + sequence[region.stop :]
    return Item("", sequence, scaffold.name, start)


def cdr_of(item: Item) -> slice:
    """Where the CDR of an item's answers is."""
    return slice(item.start.index(HOLE), item.start.rindex(HOLE) + 1)


def score(charge: float, item: Item, answer: str) -> dict[str, float]:
    """The reward and its two parts, as shares that are easier to read."""
    motifs, excess = len(liabilities(answer, cdr_of(item))), abs(net_charge(answer) - charge)
    return {
        "reward": -motifs - excess / 2,
        "liabilities": float(motifs),
        "in_charge_range": float(excess <= TOLERANCE),
        "no_liability": float(motifs == 0),
    }


def judge(items: Sequence[Item], answers: Sequence[str]) -> list[Mapping[str, float]]:
    """The metrics that no reward sees. OASis is left out, with a note, where promb is not installed."""
    seen: set[tuple[str, str]] = set()
    verdicts: list[dict[str, float]] = []
    for item, answer in zip(items, answers, strict=True):
        changed = sum(mine != theirs for mine, theirs in zip(answer, item.reference, strict=True))
        verdicts.append({"distinct": float((item.group, answer) not in seen), "changed_residues": float(changed)})
        seen.add((item.group, answer))
    if not installed():
        print("note: no OASis humanness without promb: pip install -e '.[antibody]'")
        return [*verdicts]
    return [{**verdict, "oasis": share} for verdict, share in zip(verdicts, humanness(answers), strict=True)]


def shown(item: Item) -> range:
    """The residues that the report shows: the CDR, three before and four behind it."""
    region = cdr_of(item)
    return range(region.start - 3, min(region.stop + 4, len(item.start)))


def render(item: Item, answer: str) -> str:
    """The CDR and its neighbours. All texts of an item have one length, so the report aligns them."""
    return "".join(answer[at] for at in shown(item))


def marks(item: Item, answer: str) -> dict[str, list[int]]:
    """Which of the residues shown belong to the CDR, differ from the parent, or are parts of liability motifs."""
    region, residues = cdr_of(item), shown(item)
    found = {
        "CDR-H3": set(range(region.start, region.stop)),
        "differs from the parent": {at for at in residues if answer[at] not in (HOLE, item.reference[at])},
        "liability": {at for _, start, end in liabilities(answer, region) for at in range(start, end)},
    }
    return {name: [place for place, at in enumerate(residues) if at in places] for name, places in found.items()}


def configured(settings: Antibody) -> Task[Antibody]:
    """The task with its charge, and answers as long as the longest scaffold."""
    longest = max(len(scaffold.sequence) for scaffold in read_scaffolds(settings.scaffolds))

    def score_of(item: Item, answer: str) -> dict[str, float]:
        return score(settings.charge, item, answer)

    return Task(
        settings=Antibody,
        alphabet=RESIDUES,
        answer_length=longest,
        items=items,
        score=score_of,
        render=render,
        marks=marks,
        resolve=configured,
        judge=judge,
        hole=HOLE,
    )


PLUGIN = configured(Antibody(name="antibody"))
