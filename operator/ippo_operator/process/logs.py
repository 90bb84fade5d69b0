"""Logs, one line each: JSON for collectors, text for people; with the run, stage and attempt they are about."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import aiohttp
from ippo_trainer.contract.lines import one_line, printable

from ippo_operator.cluster import log_context

LogFormat = Literal["json", "text"]


class _Context(logging.Filter):
    """Takes note of the context when a line is logged, in the task that logs it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.context = dict(log_context.bound())
        return True


class _AnswersWithoutTraceback(logging.Filter):
    """What the API server or the network said no with is in the message; where in kopf it came up helps nobody."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        while error is not None and not isinstance(error, aiohttp.ClientError):
            error = error.__cause__
        if error is not None:
            record.exc_info = record.exc_text = None
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": one_line(record.getMessage()),
            **getattr(record, "context", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in line.items() if value is not None}, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, run, message."""

    def format(self, record: logging.LogRecord) -> str:
        context = getattr(record, "context", {})
        about = " ".join(f"{key}={value}" for key, value in context.items() if value is not None)
        text = f"{_time(record)} {record.levelname:<7} {about + ' ' if about else ''}{one_line(record.getMessage())}"
        if not record.exc_info:
            return text
        # Set off, so that no line of an error's own words reads as one of ours.
        traceback = self.formatException(record.exc_info).split("\n")
        return "\n".join([text, *(f"    {printable(line)}" for line in traceback)])


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def configure(form: LogFormat, level: str) -> None:
    """Sends all logs to stderr.

    kopf's and aiohttp's own only from warnings up, and no tracebacks of what the API server answered, unless the
    level is debug.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_Context())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level.upper() != "DEBUG":
        handler.addFilter(_AnswersWithoutTraceback())
        for name in ("kopf", "aiohttp", "asyncio"):
            logging.getLogger(name).setLevel(logging.WARNING)
