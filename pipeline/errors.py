"""The exception whose message is meant for the user."""

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
