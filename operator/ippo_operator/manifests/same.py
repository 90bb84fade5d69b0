"""Whether an object on the server still says what was applied.

The server adds defaults, others add fields, and amounts are rewritten: `0.5` comes back as `500m`.
"""

from typing import Any

from ippo_operator.api.quantities import amount

_FALSE_WITHOUT = {"readOnly"}
_KEY = "name"
"""What entries of a list are told apart by; other lists are compared entry by entry."""


def holds(desired: Any, live: Any) -> bool:
    """Whether all that is desired is live, whatever else is."""
    if isinstance(desired, dict):
        return isinstance(live, dict) and all(_has(live, key, value) for key, value in desired.items())
    if isinstance(desired, list):
        return isinstance(live, list) and _entries(desired, live)
    return bool(desired == live) or _same_amount(desired, live)


def _has(live: dict[str, Any], key: str, desired: Any) -> bool:
    """The server leaves out what is empty. Without most booleans it means true, so they are not: they stay there."""
    if key in live:
        return holds(desired, live[key])
    return desired in ("", [], {}, None) if desired is not False else key in _FALSE_WITHOUT


def _entries(desired: list[Any], live: list[Any]) -> bool:
    if not desired or not all(isinstance(entry, dict) and _KEY in entry for entry in desired):
        return len(desired) == len(live) and all(map(holds, desired, live))
    by_name = {entry.get(_KEY): entry for entry in live if isinstance(entry, dict)}
    return all(entry[_KEY] in by_name and holds(entry, by_name[entry[_KEY]]) for entry in desired)


def _same_amount(one: Any, other: Any) -> bool:
    amounts = [amount(value) if isinstance(value, str) else None for value in (one, other)]
    return None not in amounts and amounts[0] == amounts[1]
