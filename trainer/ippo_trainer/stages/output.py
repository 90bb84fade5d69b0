"""What a stage says at its end: the termination message, in at most 3 KiB."""

import logging
from pathlib import Path

from ippo_trainer.contract.digests import canonical_json
from ippo_trainer.contract.spec import MAX_RESULT_BYTES

_log = logging.getLogger(__name__)


def error_message(reason: str, message: str) -> bytes:
    """`{"error": {"reason", "message"}}` in at most 3 KiB: a longer message is cut.

    Messages quote what users and libraries wrote; half a surrogate pair, which has no UTF-8, is escaped.
    """
    message = message.encode("utf-8", "backslashreplace").decode()
    length = len(message)
    while True:
        text = message if length >= len(message) else message[:length] + "…"
        body = canonical_json({"error": {"reason": reason, "message": text}})
        if len(body) <= MAX_RESULT_BYTES:
            return body
        length = min(length, len(message)) - max(1, (len(body) - MAX_RESULT_BYTES) // 6)


def write_termination_log(path: Path | None, body: bytes) -> None:
    """Writes the pod's termination message. That it cannot be written is a warning: the exit code still counts."""
    if path is None:
        return
    try:
        path.write_bytes(body)
    except OSError as error:
        _log.warning("cannot write the termination log %s: %s", path, error.strerror)
