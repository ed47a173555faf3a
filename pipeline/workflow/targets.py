"""`python -m pipeline.workflow.targets`: the runs and suites of params.yaml, what they are for and how long they take.

The texts are those of the section `describe`. Runs that only a suite makes, with other seeds or swept settings, are
left out; `snakemake --list-rules` names them too, beside the stages. Torch-free.
"""

import argparse
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from pipeline.errors import PipelineError
from pipeline.settings.params_file import Params, read_params, runs_of_suite

HEAD = "`snakemake --cores 2 NAME` makes one of these, `snakemake -n NAME` says what it would cost."
WIDTH, INDENT = 120, " " * 6


def pattern_of(name: str, describe: Mapping[str, str]) -> str:
    """The first key of `describe` that fits a run or suite; its own name if none does."""
    return next((pattern for pattern in describe if fnmatchcase(name, pattern)), name)


def descriptions(params: Params) -> dict[str, str]:
    """What each run and suite is for; of a run that only a suite makes, which suite that is."""
    made = {
        run: f"a run of the suite {suite}"
        for suite, named in params.suites.items()
        for run in runs_of_suite(params, named)
    }
    found = {
        name: params.describe.get(pattern_of(name, params.describe), "") for name in (*params.runs, *params.suites)
    }
    return found | {name: made[name] for name in params.runs if name in made and name not in params.named}


def listing(params: Params) -> str:
    """Suites and runs under the text that they share, in the order of params.yaml."""
    lines = [HEAD]
    for title, names in (("suites", [*params.suites]), ("runs", [run for run in params.runs if run in params.named])):
        lines += ["", title, *_grouped(names, params.describe)]
    return "\n".join(lines)


def _grouped(names: Iterable[str], describe: Mapping[str, str]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(pattern_of(name, describe), []).append(name)
    for pattern, members in groups.items():
        text = describe.get(pattern, "")
        yield f"  {pattern:20s}  {text}".rstrip()
        if members != [pattern]:
            yield textwrap.fill(
                " ".join(members), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("params", nargs="?", default="params.yaml", help="the file to read (params.yaml)")
    try:
        print(listing(read_params(parser.parse_args().params)))
    except PipelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
