"""Rule `report`: writes metrics.json for programs and report.html, one self-contained file, for people."""

from argparse import Namespace

from pipeline.report.dvc import curve, summary
from pipeline.report.figures import learning_curve
from pipeline.report.run_metrics import gather_metrics
from pipeline.report.run_page import changes, run_page
from pipeline.report.svg import beside, standalone
from pipeline.settings.run import Run
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import write_json, write_text
from pipeline.workflow.retention import prune

ARGUMENTS = {
    "run": "directory of the run",
    "origin": "directory of the run whose data and base model it uses",
    "joint?": "Parquet of rule joint, on enumerated tasks",
    "out": "HTML to write",
    "figure": "SVG to write: the learning curve",
    "metrics": "JSON to write",
    "summary": "JSON to write: the few numbers that DVC compares",
    "curve": "JSON to write: what DVC plots",
}


def run(args: Namespace, settings: Run) -> None:
    prune(args.run, settings.rounds, args.keep)
    metrics = gather_metrics(args.run, args.origin, settings)
    laws = parquet.read_laws(args.joint) if args.joint else None
    write_text(args.out, run_page(metrics, settings, laws))
    write_text(args.figure, standalone(beside(learning_curve(metrics))))
    write_json(args.metrics, metrics)
    write_json(args.summary, summary(metrics))
    write_json(args.curve, curve(metrics))
    for found in changes(metrics):
        print(f"{found.name}: base {found.base}, final {found.final}")
    print(f"report: {args.out}")


if __name__ == "__main__":
    main(run, Run, __doc__, ARGUMENTS)
