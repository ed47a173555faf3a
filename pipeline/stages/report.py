"""Rule `report`: writes metrics.json for programs and report.html, one self-contained file, for people."""

import json
from argparse import Namespace

from pipeline.plugins import load_algorithm
from pipeline.report import figures
from pipeline.report.html import page
from pipeline.report.run_metrics import STEPS, gather_metrics, metric_names
from pipeline.report.tables import cell
from pipeline.settings.run import Run
from pipeline.settings.stages import plain_json
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import write_json, write_text
from pipeline.training.speed import speed_in_words
from pipeline.workflow.retention import prune

ARGUMENTS = {
    "run": "directory of the run",
    "origin": "directory of the run whose data and base model it uses",
    "joint?": "Parquet of rule joint, on enumerated tasks",
    "out": "HTML to write",
    "figure": "SVG to write: the learning curve",
    "metrics": "JSON to write",
}


def run(args: Namespace, settings: Run) -> None:
    prune(args.run, settings.rounds, args.keep)
    metrics = gather_metrics(args.run, args.origin, settings)
    names = metric_names(metrics["base"])
    first, last = (metrics["evaluations"][place]["splits"]["test"] for place in (0, -1))
    learning_curve = figures.learning_curve(metrics)
    html = page(
        "report",
        metrics=metrics,
        settings=settings,
        paper=load_algorithm(settings.algorithm.name).paper,
        names=names,
        cell=cell,
        STEPS=STEPS,
        speed_in_words=speed_in_words,
        learning_curve=learning_curve,
        diagnostics=figures.diagnostics(metrics),
        losses=figures.losses(metrics),
        timings=figures.timings(metrics),
        exact=figures.exact(metrics) if args.joint else "",
        laws=figures.heat_maps(parquet.read_laws(args.joint)) if args.joint else "",
        samples=list(zip(first["greedy"]["samples"], last[metrics["sampler"]]["samples"], strict=True)),
        configuration=json.dumps(json.loads(plain_json(settings)), indent=2),
    )
    write_text(args.out, html)
    write_text(args.figure, learning_curve)
    write_json(args.metrics, metrics)
    for name in names:
        print(f"{name.replace('_', ' ')}: base {cell(metrics['base'], name)}, final {cell(metrics['final'], name)}")
    print(f"report: {args.out}")


if __name__ == "__main__":
    main(run, Run, __doc__, ARGUMENTS)
