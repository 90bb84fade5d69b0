"""Whether an object on the server still says what was applied.

The server adds defaults, others add fields, and amounts are rewritten: `0.5` comes back as `500m`.
"""

import re
from decimal import Decimal
from typing import Any

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_DECIMAL = {"m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_FALSE_WITHOUT = {"readOnly"}
_KEY = "name"
"""What entries of a list are told apart by; other lists are compared entry by entry."""


def holds(wanted: Any, found: Any) -> bool:
    """Whether all that is wanted is found, whatever else is."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_has(found, key, value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and _entries(wanted, found)
    return bool(wanted == found) or _same_amount(wanted, found)


def _has(found: dict[str, Any], key: str, wanted: Any) -> bool:
    """The server leaves out what is empty. Without most booleans it means true, so they are not: they stay there."""
    if key in found:
        return holds(wanted, found[key])
    return wanted in ("", [], {}, None) if wanted is not False else key in _FALSE_WITHOUT


def _entries(wanted: list[Any], found: list[Any]) -> bool:
    if not wanted or not all(isinstance(entry, dict) and _KEY in entry for entry in wanted):
        return len(wanted) == len(found) and all(map(holds, wanted, found))
    known = {entry.get(_KEY): entry for entry in found if isinstance(entry, dict)}
    return all(entry[_KEY] in known and holds(entry, known[entry[_KEY]]) for entry in wanted)


def _same_amount(one: Any, other: Any) -> bool:
    amounts = [_amount(value) for value in (one, other)]
    return None not in amounts and amounts[0] == amounts[1]


def _amount(value: Any) -> Decimal | None:
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    unit = match[2] or ""
    scale = Decimal(1024) ** _BINARY[unit] if unit in _BINARY else Decimal(1000) ** _DECIMAL[unit]
    return Decimal(match[1]) * scale
