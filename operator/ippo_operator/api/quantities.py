"""Amounts as Kubernetes writes them: `500m`, `2`, `8Gi`."""

import re
from decimal import Decimal

_DECIMAL = {"m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_SUFFIXES = "|".join(filter(None, (*_DECIMAL, *_BINARY)))
PATTERN = rf"^[0-9]{{1,15}}(\.[0-9]{{1,9}})?({_SUFFIXES})?$"


def amount(text: str | int) -> Decimal | None:
    """What a quantity stands for, in units of its resource; None for what is none."""
    match = re.fullmatch(rf"([0-9]+(?:\.[0-9]+)?)({_SUFFIXES})?", str(text))
    if match is None:
        return None
    unit = match[2] or ""
    scale = Decimal(1024) ** _BINARY[unit] if unit in _BINARY else Decimal(1000) ** _DECIMAL[unit]
    return Decimal(match[1]) * scale
