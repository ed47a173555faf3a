"""The report of a run that is not finished: `python -m pipeline.report.so_far NAME`, also while Snakemake is running.

It shows the rounds and evaluations that are done with the current settings and code, and goes to
data/so-far/NAME.html, where neither Snakemake nor DVC looks: it makes nothing stale and is no result.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.report.run_metrics import gather_metrics, timing_names
from pipeline.report.run_page import run_page
from pipeline.settings.inheritance import nearest_target
from pipeline.settings.params_file import Params, read_params
from pipeline.storage.atomic_files import write_text
from pipeline.storage.provenance import origin_of
from pipeline.workflow.made_with import expected_of
from pipeline.workflow.rules import origins


def so_far(params: Params, name: str) -> str:
    """The HTML of the report.

    Raises:
        PipelineError: if there is no such run, or not even the base has been evaluated with the current settings.
    """
    if name not in params.runs:
        raise PipelineError(f"'{name}' is not a run: {nearest_target(name, params.runs)}")
    run, folder = params.runs[name], Path("data/runs", name)
    origin = folder.with_name(origins(params.runs, params.default_run)[name])
    expected = expected_of(run, origin.name)

    def done(folder: Path, names: Iterable[str]) -> bool:
        """Whether these jobs have been made with what the run asks for now."""
        for path in (folder / "timings" / f"{name}.json" for name in names):
            found = origin_of(path)
            if not found or found != expected(found.get("stage", "")):
                return False
        return True

    rounds = 0
    while rounds < run.rounds and done(folder, timing_names(rounds + 1, run, evaluated=False)):
        rounds += 1
    of_rounds = [number for number in run.evaluate.rounds(run.rounds) if number <= rounds]
    evaluated = [number for number in of_rounds if done(folder, [f"evaluate_{number:03d}"])]
    if not done(origin, ["prepare", "base"]) or evaluated[:1] != [0]:
        raise PipelineError(f"{name}: nothing to show before the base is evaluated with the current settings and code")
    settings = run.model_copy(update={"rounds": rounds})
    metrics = gather_metrics(folder, origin, settings, evaluated)
    unfinished = f"Not finished: {rounds} of {run.rounds} rounds are done. The policy shown is that of round"
    return run_page(metrics, settings, None, f"{unfinished} {evaluated[-1]}.")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of params.yaml")
    parser.add_argument("--params", default="params.yaml", help="another file than params.yaml")
    args = parser.parse_args()
    try:
        path = Path("data/so-far", f"{args.run}.html")
        write_text(path, so_far(read_params(args.params), args.run))
        print(f"report so far: {path}")
    except PipelineError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
