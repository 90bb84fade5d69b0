"""How a stage ends: one exception class per exit code of the contract.

The operator maps exit codes to budgets, so the class a stage raises decides whether it is tried again.
"""


class StageError(Exception):
    """An expected failure. `message` is one line that names the field, file or object; `remedy` says what to do.

    Args:
        message: what is wrong and where.
        remedy: what the reader can do about it.
    """

    exit_code = 1
    reason = "UserCodeFailed"

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message.strip().rstrip(".")
        self.remedy = remedy.strip()
        super().__init__(f"{self.message}. {self.remedy}".strip() if self.remedy else self.message)


class BadSpecError(StageError):
    """The stage spec or the run manifest is wrong; not tried again by itself."""

    exit_code = 64
    reason = "InvalidSpec"


class BadDataError(StageError):
    """An input artifact, log or model is wrong; not tried again by itself."""

    exit_code = 65
    reason = "InvalidData"


class TryAgainError(StageError):
    """The world was not ready (S3 down, disk full); a later attempt may succeed."""

    exit_code = 75
    reason = "TryAgain"


class StoppedError(StageError):
    """The stage was told to stop (SIGTERM or Ctrl-C) and saved its checkpoint."""

    exit_code = 143
    reason = "Stopped"
