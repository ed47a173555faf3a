"""Runs `python -m MODULE …` as forks of one process that has imported Snakemake and DVC, whose imports take seconds.

Tests start them more than a hundred times. A fork is a process of its own, with the directory, the environment and the
`sys.path` of an ordinary start. Nothing of this repository is imported before it, so that a fork imports the copy of
the code in whose directory it runs. Where a test sends signals, it starts an ordinary process instead.
"""

import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

PRELOADED = ("snakemake.cli", "dvc.cli")
SECONDS = 1800.0
"""How long a command may take, on a machine that is busy with other things."""


class Forks:
    """The process and its forks, one at a time; it ends with the one that has started it."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.server = subprocess.Popen(
            [sys.executable, "-P", __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, module: str, arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, with its output. TimeoutExpired ends the process; the next command starts another."""
        assert self.server.stdin and self.server.stdout
        with tempfile.TemporaryDirectory() as place:
            streams = [str(Path(place, name)) for name in ("out", "err")]
            request = [module, list(arguments), str(directory), dict(environment), streams]
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            if not select.select([self.server.stdout], [], [], SECONDS)[0]:
                os.killpg(self.server.pid, signal.SIGKILL)
                forks.cache_clear()
                raise subprocess.TimeoutExpired([module, *arguments], SECONDS)
            status = int(self.server.stdout.readline())
            out, err = (Path(name).read_text(encoding="utf-8", errors="replace") for name in streams)
        return subprocess.CompletedProcess([module, *arguments], status, out, err)


@cache
def forks() -> Forks:
    """Those of this test process, started when first needed."""
    return Forks()


def serve() -> None:
    """Fork for each line of standard input, and answer with the exit status."""
    for module in PRELOADED:
        import_module(module)
    gc.freeze()
    path = list(sys.path)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            become(*json.loads(line), path)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def become(
    module: str, arguments: list[str], directory: str, environment: dict[str, str], streams: list[str], path: list[str]
) -> None:
    """In the fork: what `python -m MODULE …` is in this directory and environment."""
    files = [os.open(os.devnull, os.O_RDONLY), *(os.open(name, os.O_CREAT | os.O_WRONLY) for name in streams)]
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    known = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [directory, *filter(None, known), *path]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
