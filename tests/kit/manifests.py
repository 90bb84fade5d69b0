"""Small manifests, and manifests with one field changed."""

import copy
from typing import Any


def small_manifest(**sections: Any) -> dict[str, Any]:
    """A valid run with a simulator, with more sections of its spec, or others."""
    spec = {
        "iterations": {"max": 2},
        "policy": {"base": "tiny:d32-l1"},
        "warmStart": {"demonstrations": 10},
        "collect": {"simulate": {"environment": {"name": "sr-funnel"}, "conversations": 4}},
    }
    return {
        "apiVersion": "ippo.dev/v1alpha1",
        "kind": "IterativePPORun",
        "metadata": {"name": "small"},
        "spec": spec | sections,
    }


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
