"""Which run, stage and attempt a log line is about; the formatter reads it."""

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

_NOTHING: Mapping[str, object] = MappingProxyType({})
_context: ContextVar[Mapping[str, object]] = ContextVar("ippo_log", default=_NOTHING)


def bind(**fields: object) -> None:
    """Adds fields to every later line of this task."""
    _context.set({**_context.get(), **fields})


def bound() -> Mapping[str, object]:
    """The fields of this task."""
    return _context.get()
