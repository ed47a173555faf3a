"""Whether two answers are mathematically equal, by the library math-verify, which computes with SymPy.

SymPy may take for ever or all memory on a hostile text. So it runs in a process of its own, started when it is first
needed, which serves one comparison after the other. The kernel ends that process when a comparison takes more than
`SECONDS` of CPU time, whatever it is doing; the two answers then count as different, and the next comparison starts
another process. CPU time, unlike time on the clock, does not depend on what else the machine does.
"""

import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.tasks.parsing import latex

SECONDS = 2.0
MEMORY = 4 * 2**30
"""Bytes of address space of the process."""
DIGITS = 12
"""Decimals after the point to which numbers that are not exact must agree."""
READY, TRUE, FALSE = b"ready\n", b"true\n", b"false\n"


class UndecidedError(Exception):
    """The rules of `latex.equal` do not say."""


class Process:
    """The process that compares, as its user sees it."""

    def __init__(self) -> None:
        self.running: subprocess.Popen[bytes] | None = None

    def equal(self, answer: str, reference: str) -> bool:
        """The verdict of the process; False if it does not survive this comparison."""
        if self.running is None:
            self.running = self._start()
        assert self.running.stdin and self.running.stdout
        try:
            self.running.stdin.write(json.dumps([answer, reference]).encode() + b"\n")
            self.running.stdin.flush()
            verdict = self.running.stdout.readline()
        except BrokenPipeError:
            verdict = b""
        if not verdict:
            self.running.kill()
            self.running.communicate()
            self.running = None
        return verdict == TRUE

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[3])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}  # fixes SymPy's order of terms
        command = [sys.executable, "-m", "pipeline.tasks.parsing.symbolic"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert process.stdout
        if process.stdout.readline() != READY:
            raise PipelineError("math-verify, which compares formulas, does not start: see the log")
        return process


@cache
def process_of(pid: int) -> Process:
    """The process that compares for the process with this id: a fork must not share its parent's."""
    return Process()


@lru_cache(maxsize=10_000)
def _compared(pid: int, answer: str, reference: str) -> bool:
    return process_of(pid).equal(answer, reference)


def equal(answer: str, reference: str) -> bool:
    """Whether two answers are equal, by the rules of `latex.equal` or, where these do not say, by math-verify."""
    if answer == reference:
        return True
    one, other = latex.tidy(answer), latex.tidy(reference)
    try:
        return latex.equal(one, other, _undecided)
    except UndecidedError:
        return _compared(os.getpid(), one, other)


def _undecided(one: str, other: str) -> bool:
    raise UndecidedError


def serve() -> None:
    """Answer each line of standard input, a JSON list of two tidy answers, with TRUE or FALSE."""
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, unlike a handler also within a call into C
    logging.disable(logging.CRITICAL)
    verified("x+1", "1+x")  # imports what the first comparison needs, which must not count as its time
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    out.write(READY)
    out.flush()
    for line in sys.stdin:
        one, other = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            verdict = latex.equal(one, other, verified)
        except Exception:  # whatever math-verify does not catch itself
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(TRUE if verdict else FALSE)
        out.flush()


def verified(answer: str, reference: str) -> bool:
    """The verdict of math-verify, without its own time limits, which work by SIGALRM."""
    from latex2sympy2_extended import NormalizationConfig  # noqa: PLC0415  (slow, and only this process needs it)
    from math_verify import LatexExtractionConfig, parse, verify  # noqa: PLC0415

    if not (_balanced(answer) and _balanced(reference)):
        return False
    normalization = NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="all")
    config = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)]
    one, other = (
        parse(f"\\boxed{{{text}}}", config, parsing_timeout=None, fallback_mode="no_fallback")
        for text in (answer, reference)
    )
    return bool(
        verify(
            other,
            one,
            float_rounding=DIGITS,
            numeric_precision=2 * DIGITS,
            allow_set_relation_comp=True,
            timeout_seconds=None,
        )
    )


def _balanced(text: str) -> bool:
    """Whether every brace is closed, so that math-verify reads the whole text."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


if __name__ == "__main__":
    serve()
