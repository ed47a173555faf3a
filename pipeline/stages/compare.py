"""Rule `compare`: the runs of a suite side by side, averaged over runs that differ only in the seed."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.report.figures import heat_maps
from pipeline.report.html import page, rendered
from pipeline.report.json_types import RunMetrics
from pipeline.report.seed_average import family_name, suite_result
from pipeline.report.suite_figures import comparison, estimators, suite_svg
from pipeline.report.tables import estimator_tables, for_page, markdown, suite_tables
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
    measured = {found["task"]: found["rows"] for found in map(read_json, args.estimators)}
    result = suite_result(args.out.stem, runs, args.published, measured)
    tables = suite_tables(result["rows"]) | estimator_tables(measured)
    curves = comparison(result["rows"])
    laws = {task: heat_maps(shown) for task, shown in _laws_by_task(args.joints, runs).items()}
    html = page(
        "compare",
        result=result,
        tables={title: for_page(cells) for title, cells in tables.items()},
        curves=rendered(curves),
        laws=rendered(laws),
        estimators=rendered({task: estimators(rows) for task, rows in measured.items()}),
    )
    text = "\n".join(f"**{title}**\n\n{markdown(cells)}" for title, cells in tables.items())
    write_json(args.out, result)
    for path, content in ((args.markdown, text), (args.figure, suite_svg(curves)), (args.html, html)):
        write_text(path, content)
    print(text)
    print(f"report: {args.html}")


def _laws_by_task(joints: Sequence[Path], runs: Sequence[RunMetrics]) -> dict[str, dict[str, np.ndarray]]:
    """Task -> the target, the base, and the law that the first run of each family has learnt."""
    found: dict[str, dict[str, np.ndarray]] = {}
    tasks = {metrics["run"]: metrics["task"] for metrics in runs}
    for path in joints:
        laws, name = parquet.read_laws(path), path.parent.name
        shown = found.setdefault(tasks[name], {"target": laws["target"], "base": laws["base"]})
        shown.setdefault(family_name(name), laws["model"])
    return found


if __name__ == "__main__":
    main(run, NoSettings, __doc__, ARGUMENTS)
