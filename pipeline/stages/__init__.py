"""One file per rule of the Snakefile: `python -m pipeline.stages.train --help`.

Every path is an argument; the settings are the JSON of the sections that the stage reads. A stage writes its
outputs under temporary names, renames them, and last writes when it started, computed and finished, and the CPU
seconds of all its ranks.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import PipelineError
from pipeline.report.run_metrics import speed, spoken
from pipeline.settings.run import parse_sections
from pipeline.settings.sections import Keep
from pipeline.storage.atomic_files import write_json

EVERYTHING = Keep(buffers="all", optimizer="all")


def main(
    run: Callable[[argparse.Namespace], Mapping[str, Any] | None], description: str | None, arguments: Mapping[str, str]
) -> None:
    """Parse the command line, run the stage, and turn what the user can mend into one line.

    Args:
        run: may return how fast it was (`throughput.Meter.measured`), which is logged and goes into the timing.
        arguments: name -> help. A name ending in "*" takes any number of paths, "?" an optional path, "#" an
            integer, "=" JSON; every other name takes one path.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--settings", required=True, type=parse_sections, help="sections of the run, as JSON")
    parser.add_argument("--timing", required=True, type=Path, help="JSON to write: when the stage started and finished")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of all ranks of a node (0: all cores)")
    parser.add_argument("--code", default="", help="its digest: training killed under another starts afresh")
    parser.add_argument("--sharding", default="none", choices=("none", "full"), help="of what several ranks train")
    parser.add_argument("--keep", type=Keep.model_validate_json, default=EVERYTHING, help="rounds to keep, as JSON")
    for name, text in arguments.items():
        option, kind = "--" + name.rstrip("*?#="), name[-1]
        if kind == "*":
            parser.add_argument(option, type=Path, nargs="*", default=[], help=text)
        else:
            read: dict[str, Callable[[str], Any]] = {"#": int, "=": json.loads}
            parser.add_argument(option, type=read.get(kind, Path), required=kind != "?", help=text)
    try:
        args = parser.parse_args()
        if args.threads and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(max(1, args.threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        ready, begun = time.time(), time.monotonic()
        measured = run(args)
        cpu_seconds = _of_all_ranks(time.process_time())
        if os.environ.get("RANK", "0") == "0":
            timing = _timing(ready, time.monotonic() - begun, cpu_seconds)
            write_json(args.timing, timing | ({"measured": measured} if measured else {}))
            if measured:
                print(spoken(speed([measured])))
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or 'writing the output'}: {error.strerror or error}")


def _of_all_ranks(cpu_seconds: float) -> float:
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return cpu_seconds
    from pipeline.runtime.distributed import parted  # noqa: PLC0415, for stages that need no PyTorch

    return parted(cpu_seconds)


def _timing(ready: float, seconds: float, cpu_seconds: float) -> dict[str, float]:
    return {
        "started": psutil.Process().create_time(),
        "ready": ready,
        "finished": ready + seconds,  # whatever has happened to the clock
        "cpu_seconds": cpu_seconds,
    }
