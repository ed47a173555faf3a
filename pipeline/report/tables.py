"""The tables of a suite, from the rows of its JSON. Cells are text; the first line is the head."""

import math
import re
from collections.abc import Mapping, Sequence

from pipeline.evaluation.paired import MOST, compare, holm
from pipeline.report.json_types import EstimatorRow, FamilyRow, Summary
from pipeline.report.run_metrics import metric_values

Cells = list[list[str]]


def suite_tables(rows: Sequence[FamilyRow]) -> dict[str, Cells]:
    """Title -> cells: the headline metric in short, for a single family by way of decoding, all metrics after the last
    round, by answer length, paired differences, and at the same rollouts and compute."""
    found = {f"By decoding: {rows[0]['run']}": by_decoding(rows[0])} if len(rows) == 1 else {}
    if not any(len(cells) > 1 for cells in found.values()):
        headlines = " and ".join(dict.fromkeys(row["headline"].replace("_", " ") for row in rows))
        found[f"In short: {headlines}"] = in_short(rows)
    found |= {"After the last round": last_rounds(rows), "By number of answer tokens": by_length(rows)}
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        found[f"Paired by seed: {task}, differences from {of_task[0]['run']}"] = paired_differences(of_task)
        trained = [row for row in of_task if len(row["curve"]) > 1]
        if len(trained) > 1:
            found[f"At the same rollouts: {task}"] = at_the_same_rollouts(trained)
            budget = min(row["curve"][-1]["cpu_seconds"] for row in trained)
            title = f"At the same compute: {task}, {budget:,.0f} CPU seconds of rollouts, targets and training"
            found[title] = at_the_same_compute(trained, budget)
    return {title: cells for title, cells in found.items() if len(cells) > 1}


def in_short(rows: Sequence[FamilyRow]) -> Cells:
    """The headline metric on the test split: of the base and, after the last round, by each way of decoding; at most
    five columns."""
    columns = {"run": [row["run"] for row in rows], "seeds": [str(row["n"]) for row in rows]}
    columns["base"] = [cell(row["base"], row["headline"]) for row in rows]
    columns["after the last round"] = [cell(row["final"], row["headline"]) for row in rows]
    for split in ("ancestral", "ancestral by confidence"):
        columns[split] = [cell(row["splits"].get(split, {}), row["headline"]) for row in rows]
    filled = {title: texts for title, texts in columns.items() if any(texts)}
    if len(filled) > 5:
        del filled["seeds"]
    return [list(filled), *map(list, zip(*filled.values(), strict=True))]


def last_rounds(rows: Sequence[FamilyRow]) -> Cells:
    """Mean ± standard error of every metric; base, single seeds and other splits for headline metrics only."""
    headlines = list(dict.fromkeys(row["headline"] for row in rows))
    names = list(dict.fromkeys([*headlines, *(name for row in rows for name in metric_values(row["final"]))]))
    splits = list(dict.fromkeys(split for row in rows for split in row["splits"]))
    columns = {"run": [row["run"] for row in rows], "seeds": [str(row["n"]) for row in rows]}
    columns["cache"] = [row.get("cache", "") for row in rows]
    columns |= {f"{name}: base": [cell(row["base"], name) for row in rows] for name in headlines}
    columns |= {name: [cell(row["final"], name) for row in rows] for name in names}
    columns |= {f"{name}: published, base → final": [_published(row, name) for row in rows] for name in names}
    columns |= {f"{name}: each seed": [_seeds(row, name) for row in rows] for name in headlines}
    columns |= {
        f"{name}: {split}": [cell(row["splits"].get(split, {}), name) for row in rows]
        for name in headlines
        for split in splits
    }
    columns["rollouts"] = [f"{row['rollouts']:,.0f}" for row in rows]
    columns["cpu_seconds"] = [f"{row['cpu_seconds']:,.0f}" for row in rows]
    filled = {title: texts for title, texts in columns.items() if any(texts)}
    return [list(filled), *map(list, zip(*filled.values(), strict=True))]


def by_length(rows: Sequence[FamilyRow]) -> Cells:
    """The headline metric of the bases and after the last round, for each number of answer tokens."""
    rows = [row for row in rows if row["lengths"]]
    lengths = sorted({length for row in rows for length in row["lengths"]}, key=int)

    def line(title: str, row: FamilyRow, found: Mapping[str, Summary]) -> list[str]:
        return [title, str(row["n"]), *(cell(found.get(length, {}), row["headline"]) for length in lengths)]

    bases = [line(f"base of {row['run']}", row, row["base_lengths"]) for row in rows]
    own = [line for number, line in enumerate(bases) if line[1:] not in [other[1:] for other in bases[:number]]]
    return [["run", "seeds", *lengths], *own, *(line(row["run"], row, row["lengths"]) for row in rows)]


def by_decoding(row: FamilyRow) -> Cells:
    """The headline metric of a family for each way to decode that was asked for; that of the base is greedy."""
    name, splits = row["headline"], row["splits"]
    samplers = list(dict.fromkeys(split.split(", ")[-1] for split in splits if "ancestral" in split))
    asked = [split for split in splits if "ancestral" not in split]
    cells = [["decoding", f"{name}: base", name, *(f"{name}: {split}" for split in asked)]]
    if samplers:
        cells.append(["greedy", cell(row["base"], name), cell(row["final"], name)])
        cells[-1] += [cell(splits[split], name) for split in asked]
    for sampler in samplers:
        cells.append(
            [sampler, "", *(cell(splits[key], name) for key in (sampler, *(f"{split}, {sampler}" for split in asked)))]
        )
    return cells


def at_the_same_compute(rows: Sequence[FamilyRow], budget: float) -> Cells:
    """The last evaluated round of each family within `budget` CPU seconds, and how soon the first family catches up.

    The budget covers rollouts, targets and training, not evaluation or the base; a family whose first evaluation comes
    later has empty cells. The last column is the number of rollouts after which the first row's reward reaches the
    final reward of this row, and in brackets the ratio to the rollouts of this row.
    """
    name, reference = rows[0]["headline"], rows[0]
    head = ["run", name, "rollouts", "cpu_seconds", "reward at the end", f"as soon by {reference['run']}"]
    cells = [head]
    for row in rows:
        point, end = _within(row, "cpu_seconds", budget), row["curve"][-1]
        soon = next((point["rollouts"] for point in reference["curve"] if point["reward"] >= end["reward"]), None)
        share = "never" if soon is None else f"{soon:,.0f} ({soon / end['rollouts']:.2g})"
        effort = [f"{point['rollouts']:,.0f}", f"{point['cpu_seconds']:.0f}"] if point else ["", ""]
        cells.append([row["run"], cell(point, name), *effort, cell(end, "reward"), "" if row is reference else share])
    return cells


def at_the_same_rollouts(rows: Sequence[FamilyRow]) -> Cells:
    """Reward and headline metric of greedy decoding after all rollouts of the first family, a half, a quarter, ….

    Shown are the budgets after which the first family was evaluated; the others' last evaluation within each, empty if
    their first one comes later.
    """
    name, points = rows[0]["headline"], {point["rollouts"] for point in rows[0]["curve"][1:]}
    budgets = sorted(budget for budget in points if math.log2(max(points) / budget).is_integer())
    cells = [["run", *(f"{metric}: {budget:,.0f}" for metric in ("reward", name) for budget in budgets)]]
    for row in rows:
        within = [_within(row, "rollouts", budget) for budget in budgets]
        cells.append([row["run"], *(cell(point, metric) for metric in ("reward", name) for point in within)])
    return cells


def _within(row: FamilyRow, effort: str, budget: float) -> Summary:
    """The last evaluated round of a family that had cost no more `effort` than the budget; {} if there is none."""
    return next((point for point in reversed(row["curve"][1:]) if point[effort] <= budget), {})


def paired_differences(rows: Sequence[FamilyRow]) -> Cells:
    """Each family minus the first, over the seeds that both have: mean ± standard error, p and Holm's p, of the reward
    and of the headline metric, by every way of decoding that all were tested with.

    p is that of the exact sign-flip test; Holm's is corrected for the number of rows, for each metric on its own.
    """
    reference = rows[0]
    others = [row for row in rows[1:] if 1 < len(_common_seeds(reference, row)) <= MOST]
    metrics = _measured_by_all([reference, *others], reference["headline"])
    cells = [["run", "seeds", *(f"{metric}{column}" for metric in metrics for column in ("", ": p", ": p, Holm"))]]
    columns = [[row["run"] for row in others], [str(len(_common_seeds(reference, row))) for row in others]]
    for metric in metrics:
        found = [compare(_differences(reference, row, metric)) for row in others]
        scale, unit = (100, " points") if metric.endswith("accuracy") else (1, "")
        columns.append([f"{scale * one.mean:+.3g} ± {scale * one.error:.2g}{unit}" for one in found])
        columns.append([f"{one.p_value:.2g}" for one in found])
        columns.append([f"{value:.2g}" for value in holm([one.p_value for one in found])])
    return cells + [list(line) for line in zip(*columns, strict=True)]


def _common_seeds(reference: FamilyRow, row: FamilyRow) -> list[str]:
    """The seeds of runs that both families have and measured alike; none in files of earlier versions."""
    if reference["headline"] != row["headline"]:
        return []
    return sorted(reference.get("by_seed", {}).keys() & row.get("by_seed", {}).keys())


def _measured_by_all(rows: Sequence[FamilyRow], headline: str) -> list[str]:
    """The reward, the headline metric, and that by ancestral sampling, if all runs have it."""
    runs = [metrics for row in rows for metrics in row.get("by_seed", {}).values()]
    sampled = [name for name in (runs[0] if runs else ()) if name.endswith(f" {headline}")]
    return ["reward", headline, *(name for name in sampled if all(name in metrics for metrics in runs))]


def _differences(reference: FamilyRow, row: FamilyRow, metric: str) -> list[float]:
    seeds = _common_seeds(reference, row)
    return [row["by_seed"][seed][metric] - reference["by_seed"][seed][metric] for seed in seeds]


def estimator_tables(errors: Mapping[str, Sequence[EstimatorRow]]) -> dict[str, Cells]:
    """Title -> variance and squared bias ± the noise of its measurement, relative to Σ Q*², at the middle K."""
    found = {}
    for task, rows in errors.items():
        sizes = sorted({row["completions"] for row in rows})
        count = sizes[len(sizes) // 2]
        here = [row for row in rows if row["completions"] == count]
        cells = [["policy", *dict.fromkeys(row["estimator"] for row in here)]]
        for policy in dict.fromkeys(row["policy"] for row in here):
            of_policy = [row for row in here if row["policy"] == policy]
            cells.append([f"{policy}: variance", *(f"{row['variance']:.2g}" for row in of_policy)])
            bias = (f"{row['bias']:.2g} ± {row['bias_noise']:.1g}" for row in of_policy)
            cells.append([f"{policy}: squared bias", *bias])
        found[f"Estimators of Q*: {task}, K = {count}"] = cells
    return found


def for_page(cells: Cells, most: int = 7) -> Cells:
    """Cells with titles in words; rows and columns exchanged if there is one row, or many columns and few rows."""
    words = [[title.replace("_", " ") for title in cells[0]], *cells[1:]]
    tall = len(cells) == 2 or len(cells[0]) > most >= len(cells)
    return list(map(list, zip(*words, strict=True))) if tall else words


def markdown(cells: Cells) -> str:
    """Cells as a Markdown table. Text that Markdown or HTML would take for their own is escaped."""
    head, *body = [[_plain(text) for text in line] for line in cells]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plain(text: str) -> str:
    """`text` as one line of Markdown that shows it. Underscores in words and single tildes mean nothing there."""
    escaped = re.sub(r"([\\`*\[\]|]|~~)", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cell(summary: Mapping[str, float], name: str) -> str:
    """mean ± standard error if it is known; accuracies in percent."""
    if name not in summary:
        return ""
    mean, error = summary[name], round(summary[f"{name}_se"], 12)  # equal seeds differ by rounding
    known = summary["n"] > 1 or error > 0
    if name.endswith("accuracy"):
        return f"{100 * mean:.1f} ± {100 * error:.1f} %" if known else f"{100 * mean:.1f} %"
    return f"{mean:.3g} ± {error:.2g}" if known else f"{mean:.3g}"


def _published(row: FamilyRow, name: str) -> str:
    return " → ".join(without_error(name, value) for value in row["published"].get(name, ()))


def _seeds(row: FamilyRow, name: str) -> str:
    if row["n"] == 1 or name != row["headline"]:
        return ""
    return ", ".join(without_error(name, value).removesuffix(" %") for value in row["seeds"])


def without_error(name: str, value: float) -> str:
    """As `cell`, of a single number."""
    return cell({"n": 1, name: value, f"{name}_se": 0.0}, name)
