"""What others wrote into an object of ours, by the API server's own books (`managedFields`).

Nobody is in these books for what the server fills in by default or what a mutating webhook puts in, so neither counts:
taking a webhook's sidecar out again would never end.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ippo_operator.manifests.identity import MANAGER
from ippo_operator.manifests.same import holds

OVERWRITER = f"{MANAGER}-lists"
"""Ours too, where one of our fields has to be replaced before it can be applied."""
_TWINS = {"serviceAccountName": "serviceAccount", "serviceAccount": "serviceAccountName"}
"""One field under two names, which the server keeps in step: to remove one of the two changes nothing."""
Step: TypeAlias = str | int
"""A key of a map, or a place in a list."""
_OURS = {MANAGER, OVERWRITER}
_NONE: Any = object()


@dataclass(frozen=True)
class Addition:
    """A field that somebody else wrote.

    Args:
        path: to it, in the object as it is.
        manager: who wrote it.
        ours: whether we want that field, with another value. It is applied, not taken out.
    """

    path: tuple[Step, ...]
    manager: str
    ours: bool = False

    def __str__(self) -> str:
        text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return text.removeprefix(".")

    def pointers(self, live: Mapping[str, Any]) -> list[str]:
        """As in a JSON Patch: the field, by both of its names where the object has both."""
        *above, last = self.path
        holder: Any = live
        for step in above:
            holder = holder[step]
        twin = _TWINS.get(str(last))
        return [_pointer(self.path), *([_pointer((*above, twin))] if twin is not None and twin in holder else [])]


def _pointer(path: tuple[Step, ...]) -> str:
    """RFC 6901."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def additions(
    desired: Mapping[str, Any], live: Mapping[str, Any], others: Iterable[str], also_ours: bool = False
) -> list[Addition]:
    """What others wrote, deepest and last entries of lists first, so that they can be removed one after the other.

    Args:
        desired: what is applied.
        live: the object on the server, with its managedFields.
        others: dotted paths of fields, without places in lists, that are theirs to set, with all below.
        also_ours: whether what was applied in our name counts, too: anybody may use it. Where something else is wanted
            than before, what we applied then is no addition.
    """
    free = frozenset(others)
    listed = {
        addition.path: addition
        for entry in live["metadata"].get("managedFields") or ()
        if not entry.get("subresource") and (entry.get("manager") not in _OURS or (also_ours and _applied(entry)))
        for addition in _written(entry.get("fieldsV1") or {}, desired, live, str(entry.get("manager")), (), free)
    }
    return sorted(listed.values(), key=_order, reverse=True)


def _applied(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("operation") == "Apply")


def _order(addition: Addition) -> list[tuple[bool, int, str]]:
    return [(isinstance(step, str), step if isinstance(step, int) else 0, str(step)) for step in addition.path]


def _written(
    fields: Mapping[str, Any], desired: Any, live: Any, manager: str, path: tuple[Step, ...], free: frozenset[str]
) -> Iterator[Addition]:
    for key, below in fields.items():
        step = _step(key, live)
        if step is None or (isinstance(desired, dict) and _TWINS.get(str(step)) in desired):
            continue  # the list or map itself, what has gone since, or a field that we set by its other name
        here = (*path, step)
        if ".".join(part for part in here if isinstance(part, str)) in free:
            continue
        there, value = _of(desired, key), live[step]
        if there is _NONE:
            yield Addition(here, manager)
        elif below and below.keys() != {"."}:
            yield from _written(below, there, value, manager, here, free)
        elif not (holds(there, value) and holds(value, there)):
            yield Addition(here, manager, ours=True)


def _step(key: str, live: Any) -> Step | None:
    """Where a key of fieldsV1 leads to in the object: `f:name`, `k:{"name":"server"}` or `v:"value"`."""
    kind, _, rest = key.partition(":")
    if kind == "f":
        return rest if isinstance(live, dict) and rest in live else None
    if kind not in {"k", "v"} or not isinstance(live, list):
        return None
    keys = json.loads(rest)
    return next((place for place, entry in enumerate(live) if _meant(kind, keys, entry)), None)


def _of(desired: Any, key: str) -> Any:
    """The same place in what is wanted, or `_NONE`. A list's entry may leave out keys that have defaults."""
    kind, _, rest = key.partition(":")
    if kind == "f":
        return desired.get(rest, _NONE) if isinstance(desired, dict) else _NONE
    keys = json.loads(rest)
    entries = desired if isinstance(desired, list) else []
    return next((entry for entry in entries if _meant(kind, keys, entry)), _NONE)


def _meant(kind: str, keys: Any, entry: Any) -> bool:
    if kind == "v":
        return bool(entry == keys)
    return isinstance(entry, dict) and all(entry.get(name, value) == value for name, value in keys.items())
