"""The one exception whose message is meant for the user."""


class PipelineError(Exception):
    """Something outside the code is wrong: the message names the key, file or row and says what to do.

    Stages print it as a single line and exit with status 1; no traceback is shown.
    """

    def __str__(self) -> str:
        """Always one line, whatever a library or a user's reward put into it."""
        return " ".join(super().__str__().splitlines())
