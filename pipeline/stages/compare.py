"""Rule `compare`: the runs of a suite side by side, those that differ in the seed alone averaged."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.report import figures
from pipeline.report.html import page
from pipeline.report.seed_average import family, result
from pipeline.report.tables import markdown, tables
from pipeline.settings.stages import NoSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import read_json, write_json, write_text


def run(args: Namespace, settings: NoSettings) -> None:
    runs = [read_json(path) for path in args.metrics]
    found = result(args.out.stem, runs, args.published)
    cells = tables(found["rows"])
    shown = "\n".join(f"**{title}**\n\n{markdown(table)}" for title, table in cells.items())
    drawn = figures.comparison(found["rows"])
    html = page(
        "compare",
        result=found,
        tables=cells,
        curves=Markup(drawn),
        laws={
            task: Markup(figures.heat_maps(laws))
            for task, laws in _laws(args.joints, {metrics["run"]: metrics["task"] for metrics in runs}).items()
        },
        estimators={
            found["task"]: Markup(figures.estimators(found["rows"])) for found in map(read_json, args.estimators)
        },
    )
    write_json(args.out, found)
    for path, text in ((args.markdown, shown), (args.figure, drawn), (args.html, html)):
        write_text(path, text)
    print(shown)
    print(f"report: {args.html}")


def _laws(joints: list[Path], tasks: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Task -> target, base and the law that each family's first run has reached."""
    found: dict[str, dict[str, Any]] = {}
    for path in joints:
        laws, name = parquet.read_laws(path), path.parent.name
        shown = found.setdefault(tasks[name], {"target": laws["target"], "base": laws["base"]})
        shown.setdefault(family(name), laws["model"])
    return found


if __name__ == "__main__":
    main(
        run,
        NoSettings,
        __doc__,
        {
            "metrics*": "metrics.json of every run",
            "joints*": "joint.parquet of runs on enumerated tasks, whose laws are shown",
            "estimators*": "estimators.json of a run of each enumerated task",
            "published=": "figures of others, by run and metric, as JSON",
            "out": "JSON to write: a row for each family, with its learning curve",
            "markdown": "the same as tables",
            "figure": "SVG to write: the headline metric against rollouts and CPU seconds, and each jump's KL",
            "html": "HTML to write: table and figures in one file",
        },
    )
