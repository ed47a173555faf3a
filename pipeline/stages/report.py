"""Rule `report`: metrics.json for machines and one self-contained report.html for people."""

import json
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from pipeline.plugins import load_algorithm
from pipeline.report import figures
from pipeline.report.html import page
from pipeline.report.run_metrics import gather_metrics, scored
from pipeline.report.tables import cell
from pipeline.settings.run import Run
from pipeline.settings.stages import plain_json
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import write_json, write_text
from pipeline.training.speed import speed_in_words
from pipeline.workflow.retention import prune

FIGURES = ("learning_curve", "diagnostics", "losses", "timings", "exact")


def run(args: Namespace, settings: Run) -> None:
    prune(args.run, settings.rounds, args.keep)
    metrics = gather_metrics(args.run, args.origin, settings)
    names = scored(metrics["base"])
    first, last = (
        metrics["evaluations"][k]["test"][sampler]["samples"]
        for k, sampler in ((0, "greedy"), (settings.rounds, metrics["sampler"]))
    )
    safe = {name: _markup(getattr(figures, name)) for name in FIGURES}
    html = page(
        "report",
        metrics=metrics,
        settings=settings,
        paper=load_algorithm(settings.algorithm.name).paper,
        names=names,
        cell=cell,
        speed_in_words=speed_in_words,
        figures=safe,
        laws=Markup(figures.heat_maps(parquet.read_laws(args.joint))) if args.joint else "",
        samples=list(zip(first, last, strict=True)),
        configuration=json.dumps(json.loads(plain_json(settings)), indent=2),
    )
    for path, text in ((args.out, html), (args.figure, safe["learning_curve"](metrics))):
        write_text(path, text)
    evaluations = [{"round": k, "splits": splits} for k, splits in metrics["evaluations"].items()]
    write_json(args.metrics, metrics | {"evaluations": evaluations})  # a list, which `dvc metrics` leaves out
    for name in names:
        print(f"{name.replace('_', ' ')}: base {cell(metrics['base'], name)}, final {cell(metrics['final'], name)}")
    print(f"not computing (process starts, scheduling): {metrics['time']['waiting_share']:.1%} of the wall time")
    print(f"report: {args.out}")


def _markup(draw: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], Markup]:
    return lambda metrics: Markup(draw(metrics))


if __name__ == "__main__":
    main(
        run,
        Run,
        __doc__,
        {
            "run": "directory of the run",
            "origin": "directory of the run whose data and base model it uses",
            "joint?": "Parquet of rule joint, on enumerated tasks",
            "out": "HTML to write",
            "figure": "SVG to write: the learning curve",
            "metrics": "JSON to write",
        },
    )
