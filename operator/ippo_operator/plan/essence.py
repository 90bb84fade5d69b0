"""What a text of others says, so that one that changes by itself is no news."""

import re

_NAMES = re.compile(r"(?<=-)(?=[a-z0-9]*[0-9bcdf-hj-np-tv-z])[a-z0-9]{5,10}\b")
"""What Kubernetes ends the names of pods and ReplicaSets with."""
_NUMBERS = re.compile(r"\d[\w.]*")
_PARTS = re.compile(r"[,;:]\s|\.(?:\s|$)")


def essence(text: str) -> frozenset[str]:
    """What a text says, whatever its numbers, generated names and the order of its parts."""
    plain = _NUMBERS.sub("#", _NAMES.sub("*", text))
    return frozenset(part.strip() for part in _PARTS.split(plain) if part.strip())
