"""The exception whose message is meant for the user, and what a user's own code raises as one."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST, TAIL = 1500, 300
"""Characters of a message, and those of its end that are kept of a longer one."""


class PipelineError(Exception):
    """An error outside the code: the message names the key, file or row, and says what to do.

    Stages print it on one line, without a traceback, and exit with status 1.
    """

    def __str__(self) -> str:
        """One printable line, even if the text of a library, of a user's reward or of a file in it is long, has several
        lines, or holds control characters or lone surrogates.
        """
        line = " ".join(super().__str__().splitlines())
        if len(line) > LONGEST:
            line = f"{line[: LONGEST - TAIL]}…{line[-TAIL:]}"
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


@contextmanager
def users_code(name: str, *passed: type[Exception], log: bool = True) -> Iterator[None]:
    """Whatever a user's code raises becomes a PipelineError, with the traceback in the log. KeyboardInterrupt and the
    exceptions `passed` go on as they are."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, *passed)):
            raise
        if log:
            traceback.print_exc()
        raise PipelineError(f"{name} raised {type(error).__name__}: {error}") from error
