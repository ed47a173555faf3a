"""What the generated bad inputs of this directory have in common: how they are made, and what may come of them.

A test starts from an input that works, changes it, and calls the function that reads it. Either the input still works,
or the function raises PipelineError with one line that names what is wrong: no other exception, nothing that hangs, and
no file outside the working directory. hypothesis draws the same inputs in every run.
"""

import copy
import faulthandler
import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError

SECONDS, PATIENCE = 10, 12
"""What one input may take of the processor, and how many times as long by the clock; most take milliseconds."""
LONGEST = 2000
"""Characters of an error line."""
DEEP = "[" * 100_000
NO_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff")]
)
"""Two texts of a column, of which the second is no UTF-8."""


def examples(count: int) -> settings:
    """So many inputs, always the same, none of them stored; one that fails is shown as it is, not made smaller."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    kept = {"derandomize": True, "database": None, "deadline": None, "phases": (Phase.explicit, Phase.generate)}
    return settings(max_examples=count, suppress_health_check=checks, **kept)


class HangError(BaseException):
    """Nothing in the package catches it."""


@contextmanager
def working_directory() -> Iterator[Path]:
    """A working directory two levels below a fresh one that must stay as it is."""
    with tempfile.TemporaryDirectory() as name:
        around = Path(name).resolve()
        work = around / "above" / "work"
        work.mkdir(parents=True)
        (around / "secret").write_text("secret")
        (around / "above" / "escape").write_text("secret")
        before = _outside(around, work)
        with chdir(work):
            yield work
        assert _outside(around, work) == before


def _outside(around: Path, work: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file that is not in the working directory, with its time and bytes."""
    files = (path for path in around.rglob("*") if path.is_file() and not path.is_relative_to(work))
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def line_of(run: Callable[[], object], *names: str, seconds: float = SECONDS) -> str:
    """ "" if it works, else the line of its PipelineError, which holds at least one of `names`."""
    try:
        with _in_time(seconds):
            run()
    except PipelineError as error:
        line = str(error)
        assert line.isprintable() and 0 < len(line) <= LONGEST, line[:LONGEST]
        assert any(name in line for name in names), line
        return line
    return ""


@contextmanager
def _in_time(seconds: float) -> Iterator[None]:
    """HangError after some seconds of CPU time, which do not depend on what else the machine does, or `PATIENCE` times
    as many by the clock; code that does not even come back to Python ends the tests with its traceback."""

    def stop(*_: object) -> None:
        raise HangError(f"more than {seconds} s")

    limits = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE * seconds)}
    before = {number: signal.signal(number, stop) for number in limits}
    for timer, limit in limits.values():
        signal.setitimer(timer, limit)
    faulthandler.dump_traceback_later(2 * PATIENCE * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, (timer, _) in limits.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


TEXTS = (
    "",
    " ",
    "x",
    "0",
    "-1",
    "nan",
    "inf",
    "1e999",
    "1_000",
    "٣",
    "null",
    "true",
    "a\nb",
    "a\u2028b",
    "\x00",
    "\x1b[31m",
)
TEXTS += ("\ufeffx", "\ud800", "../escape", "../../secret", "/etc/passwd", "~", ".", "[MASK]", "<|mdm_mask|>", "{", "}")
TEXTS += (
    "{prompt}",
    "{0.__class__}",
    "%s",
    "$(touch ../escape)",
    "{{ 9 }}",
    "x" * 10_000,
    "9" * 5_000,
    "é" * 300,
    "os.path",
)
NUMBERS = (0, 1, -1, 2, 3, 7, 10**6, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308)
NUMBERS += (float("nan"), float("inf"), float("-inf"))
SCALARS = st.sampled_from((None, True, False, *TEXTS, *NUMBERS)) | st.text(max_size=8) | st.integers() | st.floats()
KEYS = st.sampled_from(("", "name", "Name ", "path", "extends", "<<", "__class__", "x\ny", "x" * 300)) | st.text(
    max_size=5
)
VALUES = (
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
    )
    | st.builds(lambda: [[] for _ in range(500)])
    | st.builds(lambda depth: json.loads("[" * depth + "]" * depth), st.sampled_from((20, 60, 400)))
)


@st.composite
def changed(draw: st.DrawFn, valid: Any, most: int = 2) -> Any:
    """A copy of a value made of mappings and lists in which one or more places have changed."""
    value = {"root": copy.deepcopy(valid)}
    for _ in range(draw(st.integers(1, most))):
        if not (places := list(_places(value["root"]))):
            break
        holder, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(("replace", "replace", "replace", "remove", "wrap", "as text", "rename", "add")))
        if change == "replace":
            holder[key] = draw(VALUES)
        elif change == "remove":
            del holder[key]
        elif change == "wrap":
            inner = holder[key]
            holder[key] = draw(st.sampled_from(([inner], {"x": inner}, [inner, copy.deepcopy(inner)])))
        elif change == "as text":
            holder[key] = str(holder[key])
        elif isinstance(holder, dict):
            name = draw(KEYS)
            holder[name] = holder.pop(key) if change == "rename" else draw(VALUES)
        else:
            holder.insert(key, draw(VALUES))
    return value["root"]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key or index) of everything in a nested value."""
    for key, inner in (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from _places(inner)


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes that are cut, overwritten, repeated, or replaced by something else."""
    place, length = draw(st.integers(0, len(valid))), draw(st.integers(0, 12))
    kind = draw(st.sampled_from(("cut", "overwritten", "inserted", "left out", "repeated", "other")))
    noise = draw(
        st.binary(min_size=1, max_size=12) | st.sampled_from((b"\xff\xfe", b"\x00" * 8, b"\n", b"NaN", b"1e999", b"}"))
    )
    if kind == "other":
        return draw(
            st.sampled_from(
                (b"", b"\n", b"null", b"[]", b"{}", b"1", b'"x"', b"\xff", b"\xef\xbb\xbf{}", DEEP.encode(), noise)
            )
        )
    return {
        "cut": valid[:place],
        "overwritten": valid[:place] + noise + valid[place + len(noise) :],
        "inserted": valid[:place] + noise + valid[place:],
        "left out": valid[:place] + valid[place + length :],
        "repeated": valid[:place] + valid[max(0, place - length) :],
    }[kind]


def json_bytes(value: object) -> bytes:
    """JSON with NaN, infinities and lone surrogates where the value has them."""
    return json.dumps(value).encode()
