"""Manifests with one field changed."""

import copy
from typing import Any


def with_field(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The document with the field at a dotted path set, or removed for `...`."""
    document = copy.deepcopy(document)
    place: Any = document
    *parents, last = path.split(".")
    for part in parents:
        place = place.setdefault(part, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document
