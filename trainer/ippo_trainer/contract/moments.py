"""Moments as others write them."""

from datetime import UTC, date, datetime
from typing import Any

_MILLISECONDS = 1e11
"""Numbers above it are no seconds of this millennium."""


def seconds_of(value: Any) -> float | None:
    """Seconds since 1970 UTC: of a number of seconds or milliseconds, or of ISO 8601, in UTC where it has no zone,
    at its beginning where it is a day.

    None for whatever else.
    """
    value = _read(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        try:
            return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()
        except OverflowError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MILLISECONDS * 1000:
        return None
    return float(value) / 1000 if value > _MILLISECONDS else float(value)


def lacks_zone(value: Any) -> bool:
    """Whether it is a moment, or a day, that `seconds_of` takes to be in UTC since it does not say where it was."""
    value = _read(value)
    return isinstance(value, date) and getattr(value, "tzinfo", None) is None


def _read(value: Any) -> Any:
    """The moment that ISO 8601 says; whatever else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value.strip())
    except ValueError:
        return None
