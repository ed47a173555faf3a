"""The exception whose message is meant for the user."""


class PipelineError(Exception):
    """An error outside the code: the message names the key, file or row, and says what to do.

    Stages print it on one line, without a traceback, and exit with status 1.
    """

    def __str__(self) -> str:
        """One line, even if the text of a library or of a user's reward has several."""
        return " ".join(super().__str__().splitlines())
