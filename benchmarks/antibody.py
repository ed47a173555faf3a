"""The table of docs/antibody.md: methods on held-out scaffolds, judges beside, and paired tests over scaffolds.

  python -m benchmarks.antibody [--runs data/runs] [--antiberty data/models/antiberty]

Reads metrics.json and the answers of the suite `antibody`. A scaffold's number is the mean over its answers and over
the seeds; the standard error is over scaffolds, and the p-value that of the paired sign-flip test over them
(`evaluation.paired`). The pseudo-likelihood is log p(x_i | rest) of AntiBERTy, one position i of the CDR drawn for
each of the first answers to each scaffold; without the converted model it is left out.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from pipeline.evaluation.answers import read_shards, read_splits
from pipeline.evaluation.paired import compare
from pipeline.models.policy_directory import load_policy
from pipeline.plugins import load_model
from pipeline.samplers.posterior import token_log_prob
from pipeline.storage.atomic_files import read_json
from pipeline.tasks.antibody import cdr_of

SUITE = ("antibody-dam", "antibody-best", "antibody-raft", "antibody-svdd")
METRICS = ("reward", "no_liability", "in_charge_range", "oasis", "distinct", "changed_residues")
ANSWERS = 16
"""Of each scaffold, that AntiBERTy reads."""
Table = dict[str, dict[str, float]]
"""Metric -> scaffold -> mean over answers and seeds."""


def table_of(folders: list[Path], place: int, judge: Path) -> Table:
    """The metrics of a method's runs, one for each seed, at their first (0) or last (-1) evaluation."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        evaluation = read_json(folder / "metrics.json", "evaluations")["evaluations"][place]
        for scaffold, row in evaluation["splits"]["test"]["ancestral"]["groups"].items():
            for name in METRICS:
                found[name][scaffold].append(row[name])
        if judge.is_dir():
            for scaffold, value in pseudo_likelihood(folder, evaluation["round"], judge).items():
                found["antiberty"][scaffold].append(value)
    return {name: {key: float(np.mean(values)) for key, values in rows.items()} for name, rows in found.items()}


def pseudo_likelihood(folder: Path, number: int, judge: Path) -> dict[str, float]:
    """Scaffold -> mean log-probability of a residue of the CDR, given all others."""
    model, tokenizer, mask = load_policy(judge, load_model("masked_lm"))
    splits = read_splits([_items(folder)])
    rng, values = np.random.default_rng(0), defaultdict[str, list[float]](list)
    answers = read_shards(sorted((folder / f"round_{number:03d}" / "answers").glob("*.parquet")))
    for answer in sorted(answers, key=lambda answer: answer.item_id):
        item = splits["test"][answer.item_id]
        if len(values[item.group]) == ANSWERS:
            continue
        state = torch.tensor([tokenizer.encode(answer.answer, add_special_tokens=False).ids])
        select = torch.zeros_like(state, dtype=torch.bool)
        select[0, rng.integers(cdr_of(item).start, cdr_of(item).stop)] = True
        wanted, state = state[select][:, None], torch.where(select, mask, state)
        with torch.no_grad():
            found = token_log_prob(model, torch.empty(1, 0, dtype=torch.long), state, select, wanted)
        values[item.group].append(float(found))
    return {scaffold: float(np.mean(found)) for scaffold, found in values.items()}


def _items(folder: Path) -> Path:
    """The items of a run, or of the first run of the suite, which made them for all."""
    own = folder / "items" / "test.parquet"
    return own if own.is_file() else folder.with_name(SUITE[0]) / "items" / "test.parquet"


def line(title: str, table: Table, names: list[str]) -> str:
    """A row of markdown: mean ± standard error over scaffolds."""
    cells = []
    for name in names:
        values = np.array(list(table[name].values()))
        cells.append(f"{values.mean():.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}")
    return "| " + " | ".join([title, *cells]) + " |"


def paired(mine: Mapping[str, float], other: Mapping[str, float]) -> str:
    """The mean difference over scaffolds, its error and p-value."""
    found = compare([mine[scaffold] - other[scaffold] for scaffold in mine])
    return f"{found.mean:+.3f} ± {found.error:.3f}, p = {found.p_value:.3g} ({found.n} scaffolds)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("data/runs"))
    parser.add_argument("--antiberty", type=Path, default=Path("data/models/antiberty"))
    args = parser.parse_args()
    tables: dict[str, Table] = {}
    for name in SUITE:
        folders = [path.parent for path in sorted(args.runs.glob(f"{name}*/metrics.json"))]
        if name == SUITE[0] and folders:
            tables["base"] = table_of(folders, 0, args.antiberty)
        if folders:
            tables[f"{name} ({len(folders)} seeds)"] = table_of(folders, -1, args.antiberty)
    names = list(tables["base"])
    print("| | " + " | ".join(name.replace("_", " ") for name in names) + " |\n|---" + "|---" * len(names) + "|")
    for title, table in tables.items():
        print(line(title, table, names))
    first = next(title for title in tables if title.startswith(SUITE[0]))
    for title, table in tables.items():
        for name in names if title != first else ():
            print(f"{first} - {title}, {name}: {paired(tables[first][name], table[name])}")


if __name__ == "__main__":
    main()
