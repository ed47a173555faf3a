"""Rule `compare`: the runs of a suite side by side, averaged over runs that differ only in the seed."""

from argparse import Namespace
from pathlib import Path

import numpy as np

from pipeline.report import figures
from pipeline.report.html import page
from pipeline.report.seed_average import family_name, suite_result
from pipeline.report.tables import markdown, suite_tables
from pipeline.settings.stages import NoSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import read_json, write_json, write_text

ARGUMENTS = {
    "metrics*": "metrics.json of every run",
    "joints*": "joint.parquet of every run on an enumerated task, for the heat maps",
    "estimators*": "estimators.json of a run of each enumerated task",
    "published=": "published numbers of other authors, by run and metric, as JSON",
    "out": "JSON to write: a row for each family (runs that differ only in the seed), with its learning curve",
    "markdown": "Markdown to write: the same numbers as tables",
    "figure": "SVG to write: the headline metric against rollouts and CPU seconds, and each jump's KL",
    "html": "HTML to write: tables and figures in one file",
}


def run(args: Namespace, settings: NoSettings) -> None:
    runs = [read_json(path) for path in args.metrics]
    result = suite_result(args.out.stem, runs, args.published)
    tables = suite_tables(result["rows"])
    curves = figures.comparison(result["rows"])
    laws = _laws_by_task(args.joints, {metrics["run"]: metrics["task"] for metrics in runs})
    html = page(
        "compare",
        result=result,
        tables=tables,
        curves=curves,
        laws={task: figures.heat_maps(shown) for task, shown in laws.items()},
        estimators={found["task"]: figures.estimators(found["rows"]) for found in map(read_json, args.estimators)},
    )
    text = "\n".join(f"**{title}**\n\n{markdown(cells)}" for title, cells in tables.items())
    write_json(args.out, result)
    for path, content in ((args.markdown, text), (args.figure, curves), (args.html, html)):
        write_text(path, content)
    print(text)
    print(f"report: {args.html}")


def _laws_by_task(joints: list[Path], tasks: dict[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """Task -> the target, the base, and the law that the first run of each family has learnt."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in joints:
        laws, name = parquet.read_laws(path), path.parent.name
        shown = found.setdefault(tasks[name], {"target": laws["target"], "base": laws["base"]})
        shown.setdefault(family_name(name), laws["model"])
    return found


if __name__ == "__main__":
    main(run, NoSettings, __doc__, ARGUMENTS)
