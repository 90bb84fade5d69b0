"""Errors that a user can do something about, and the exit codes of `ippo`."""

from ippo_trainer.contract.errors import BAD_DATA, BAD_SPEC, DONE, FAILED, INTERRUPTED, STOPPED, TRY_AGAIN

__all__ = ["BAD_DATA", "BAD_INPUT", "FAILED", "INTERRUPTED", "OK", "TERMINATED", "TRY_AGAIN", "CommandError"]

OK = DONE
BAD_INPUT = BAD_SPEC
TERMINATED = STOPPED


class CommandError(Exception):
    """Ends the command with a message and an exit code; no traceback."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code
