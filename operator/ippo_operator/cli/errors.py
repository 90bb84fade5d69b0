"""Errors that a user can do something about, and the exit codes of `ippo`."""

OK = 0
FAILED = 1
BAD_INPUT = 64
BAD_DATA = 65
TRY_AGAIN = 75
INTERRUPTED = 130
TERMINATED = 143


class CommandError(Exception):
    """Ends the command with a message and an exit code; no traceback."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code
