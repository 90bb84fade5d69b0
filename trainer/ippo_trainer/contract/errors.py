"""How a stage ends: one exception class per exit code of the contract.

The operator maps exit codes to budgets, so the class a stage raises decides whether it is tried again. 64 to 75 are
those of sysexits.h, 130 and 143 a shell's for Ctrl-C and SIGTERM.
"""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
BAD_SPEC: Final = 64
BAD_DATA: Final = 65
TRY_AGAIN: Final = 75
INTERRUPTED: Final = 130
STOPPED: Final = 143
FINAL: Final = (BAD_SPEC, BAD_DATA)
"""Another try ends the same way."""


class StageError(Exception):
    """An expected failure. `message` is one line that names the field, file or object; `remedy` says what to do.

    Args:
        message: what is wrong and where.
        remedy: what the reader can do about it.
    """

    exit_code: int = FAILED
    reason = "UserCodeFailed"
    """In the words of the operator's `Reason`."""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message.strip().rstrip(".")
        self.remedy = remedy.strip()
        super().__init__(f"{self.message}. {self.remedy}".strip() if self.remedy else self.message)


class BadSpecError(StageError):
    """The stage spec or the run manifest is wrong; not tried again by itself."""

    exit_code = BAD_SPEC
    reason = "InvalidSpec"


class BadDataError(StageError):
    """An input artifact, log or model is wrong; not tried again by itself."""

    exit_code = BAD_DATA
    reason = "InvalidData"


class TryAgainError(StageError):
    """The world was not ready (S3 down, disk full); a later attempt may succeed."""

    exit_code = TRY_AGAIN
    reason = "TryAgain"


class StoppedError(StageError):
    """The stage was told to stop (SIGTERM or Ctrl-C) and saved its checkpoint."""

    exit_code = STOPPED
    reason = "Disrupted"
