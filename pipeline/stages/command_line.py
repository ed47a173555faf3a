"""The command line of a stage: `python -m pipeline.stages.train --help`. Each rule of the Snakefile is one file here.

Every path is an argument; the settings are the sections that the stage reads, as JSON text or in a file. A stage writes
its outputs under temporary names and renames them; last it writes when it started, computed and finished, and the
CPU seconds of all its ranks.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil

from pipeline.errors import PipelineError
from pipeline.runtime.launch import die_with_agent
from pipeline.runtime.memory_limits import LESS_MEMORY
from pipeline.settings.project import Keep
from pipeline.settings.stages import parse_settings
from pipeline.settings.validation import Section
from pipeline.storage.atomic_files import write_json
from pipeline.storage.provenance import made_with
from pipeline.training.speed import Measured, speed, speed_in_words

S = TypeVar("S", bound=Section)
Stage = Callable[[argparse.Namespace, S], Measured | None]
"""(arguments, settings) -> how fast the stage was, for its log and timing; None if it does not measure that."""

CONVERT: Mapping[str, Callable[[str], object]] = {"#": int, "=": json.loads}
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory")
ASKED = re.compile(r"tried to allocate [\d.]+ \w+", re.IGNORECASE)
EVERYTHING = Keep(buffers="all", optimizer="all")


def main(run: Stage[S], schema: type[S], description: str | None, arguments: Mapping[str, str]) -> None:
    """Parse the command line, run the stage, and report errors that the user can fix on one line.

    `arguments` maps names to their help. A name ending in "*" takes any number of paths, "?" an optional path, "#" an
    integer, "=" JSON; every other name takes one path.
    """
    die_with_agent()
    stage = Path(run.__code__.co_filename).stem
    with errors_on_one_line(LESS_MEMORY.get(stage, "")):
        args = _parser(description, arguments).parse_args()
        settings = parse_settings(args.settings, schema)
        if torch := sys.modules.get("torch"):
            if torch.cuda.is_available():
                torch.backends.cuda.matmul.allow_tf32 = True  # products of fp32: those of the head, and of fp32 weights
            if args.threads:
                torch.set_num_threads(max(1, args.threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        ready, begun = time.time(), time.monotonic()
        measured = run(args, settings)
        cpu_seconds = _of_all_ranks(time.process_time())
        if os.environ.get("RANK", "0") == "0":
            started = psutil.Process().create_time()
            finished = ready + (time.monotonic() - begun)  # even if the clock has been changed meanwhile
            times = {"started": started, "ready": ready, "finished": finished, "cpu_seconds": cpu_seconds}
            noted = {**times, "origin": made_with(stage, args.settings, args.code)}
            write_json(args.timing, {**noted, **({"measured": measured} if measured else {})})
            if measured:
                print(speed_in_words(speed([measured])))


def _parser(description: str | None, arguments: Mapping[str, str]) -> argparse.ArgumentParser:
    """The options of every stage, and those of `arguments`; see `main`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--settings", required=True, type=text_or_file, help="sections of the run: JSON text, or @FILE that holds it"
    )
    parser.add_argument("--timing", required=True, type=Path, help="JSON to write: when the stage started and finished")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of all ranks of a node (0: all cores)")
    parser.add_argument("--code", default="", help="digests of the code and data, for the timing and saved progress")
    parser.add_argument("--sharding", default="none", choices=("none", "full"), help="of what several ranks train")
    parser.add_argument("--compile", type=json.loads, choices=(None, True, False), help="blocks; null: on a GPU")
    parser.add_argument("--keep", type=Keep.model_validate_json, default=EVERYTHING, help="rounds to keep, as JSON")
    for name, text in arguments.items():
        option, kind = "--" + name.rstrip("*?#="), name[-1]
        if kind == "*":
            parser.add_argument(option, type=Path, nargs="*", default=[], help=text)
        else:
            parser.add_argument(option, type=CONVERT.get(kind, Path), required=kind != "?", help=text)
    return parser


def text_or_file(argument: str) -> str:
    """The argument itself, or the text of FILE for @FILE."""
    if not argument.startswith("@"):
        return argument
    try:
        return Path(argument[1:]).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise PipelineError(f"{argument[1:]} is not UTF-8 text") from error


@contextmanager
def errors_on_one_line(less_memory: str = "") -> Iterator[None]:
    """End the program with one line if the user can fix the error.

    Args:
        less_memory: what to do if memory runs out.
    """
    try:
        yield
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        asked = ASKED.search(str(error))
        sys.exit(f"error: out of memory{f' ({asked[0]})' if asked else ''}: {less_memory or 'use a machine with more'}")
    except OSError as error:
        sys.exit(f"error: {error.filename or 'writing the output'}: {error.strerror or error}")


def _of_all_ranks(cpu_seconds: float) -> float:
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return cpu_seconds
    from pipeline.runtime.distributed import sum_and_leave_group  # noqa: PLC0415, for stages that need no PyTorch

    return sum_and_leave_group(cpu_seconds)
