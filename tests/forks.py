"""Runs `python -m MODULE …` as forks of processes that have imported what takes seconds to import.

Tests start Snakemake and DVC more than a hundred times, and each Snakemake that runs jobs starts a server of preloaded
modules; some check items of a checkpoint before. Snakemake and DVC are forks of one process that has imported both, the
servers and checks of another that imports PyTorch and transformers when the first of them connects to it, by
`startup/sitecustomize.py` on their PYTHONPATH. A fork is a process of its own, with the directory, the environment and
the `sys.path` of an ordinary start. Nothing of this repository is imported before it, so that a fork imports the copy
of the code in whose directory it runs. Where a test sends signals, it starts ordinary processes instead.
"""

import fcntl
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

PRELOADED = (
    *("snakemake.cli", "snakemake.report", "snakemake_executor_plugin_slurm", "smart_open", "jinja2", "psutil"),
    *("dvc.cli", "dvc.repo.index", "dvc.repo.status", "dvc.commands.status", "dvc.parsing", "dulwich.repo"),
    *("tokenizers", "safetensors"),
)
MODELS = (
    *("pyarrow.parquet", "pyarrow.dataset", "pyarrow.compute", "pydantic.type_adapter", "jaxtyping", "jinja2", "peft"),
    *("torch.nn.parallel.distributed", "matplotlib.figure", "matplotlib.backends.backend_svg"),
    *("transformers.conversion_mapping", "transformers.masking_utils", "transformers.models.llama.modeling_llama"),
)
"""What commands, and stages, import besides this repository."""
STARTUP = Path(__file__).parent / "startup"
SOCKET = "TESTS_MODELS_SOCKET"
SECONDS = 1800.0
"""How long a command may take, on a machine that is busy with other things."""


class Forks:
    """Both processes and their forks, of the first one at a time; they end with the process that has started them."""

    def __init__(self) -> None:
        self.place = tempfile.TemporaryDirectory(prefix="dam-tests-", dir="/tmp")  # a socket's name must be short
        self.socket = f"{self.place.name}/s"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.socket)
            listener.listen()
            self.models = self._start("models", str(listener.fileno()), files=[listener.fileno()])
        self.server = self._start("commands")

    def _start(self, *arguments: str, files: Sequence[int] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", __file__, *arguments],
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            pass_fds=files,
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
        environment = {**environment, **self.environment(environment.get("PYTHONPATH", ""))}
        with tempfile.TemporaryDirectory() as place:
            streams = [str(Path(place, name)) for name in ("out", "err")]
            request = [module, list(arguments), str(directory), environment, streams]
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            if not select.select([self.server.stdout], [], [], SECONDS)[0]:
                os.killpg(self.server.pid, signal.SIGKILL)
                forks.cache_clear()
                raise subprocess.TimeoutExpired([module, *arguments], SECONDS)
            status = int(self.server.stdout.readline())
            out, err = (Path(name).read_text(encoding="utf-8", errors="replace") for name in streams)
        return subprocess.CompletedProcess([module, *arguments], status, out, err)

    def environment(self, path: str) -> dict[str, str]:
        """The variables with which servers and checks become forks; `path` is the command's own PYTHONPATH."""
        return {"PYTHONPATH": os.pathsep.join(filter(None, [str(STARTUP), path])), SOCKET: self.socket}


@cache
def forks() -> Forks:
    """Those of this test process, started when first needed."""
    return Forks()


def serve_commands() -> None:
    """Fork for each line of standard input, and answer with the exit status."""
    for module in PRELOADED:
        import_module(module)
    import_module("snakemake.cli").get_argument_parser()  # it looks for plugins, and remembers them
    gc.freeze()
    path = list(sys.path)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            *command, streams = json.loads(line)
            files = [os.open(os.devnull, os.O_RDONLY), *(os.open(name, os.O_CREAT | os.O_WRONLY) for name in streams)]
            become(*command, dict(enumerate(files)), path)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def serve_models(listener: socket.socket) -> None:
    """Fork for each connection until standard input closes; the connection is closed when the fork ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    path = list(sys.path)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        for module in MODELS:  # not before the first connection
            import_module(module)
        import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")  # compiles patterns
        gc.freeze()
        connection = listener.accept()[0]
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _, received, _, _ = socket.recv_fds(connection, 1, 4)
            module, *arguments, numbers, directory, environment = json.loads(connection.makefile("rb").readline())
            fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, 100)  # it stays open, whatever the numbers are
            become(module, arguments, directory, environment, dict(zip(numbers, received, strict=True)), path)
            return
        connection.close()


def become(
    module: str,
    arguments: list[str],
    directory: str,
    environment: dict[str, str],
    files: dict[int, int],
    path: list[str],
) -> None:
    """In the fork: what `python -m MODULE …` is in this directory and environment.

    Args:
        files: the number of a file descriptor -> an open one that takes its place.
    """
    for number, file in files.items():
        if file != number:
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
    serve_commands() if sys.argv[1] == "commands" else serve_models(socket.socket(fileno=int(sys.argv[2])))
