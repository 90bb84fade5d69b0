"""Puts a kept object right: what we want is applied, what others added is taken out.

Who is right is not settled by speed: an object that somebody changes again and again is put right less and less often.
"""

from dataclasses import dataclass

from ippo_trainer.contract.digests import digest_of

from ippo_operator.cluster import clock
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import InvalidError
from ippo_operator.cluster.resources import resource_of
from ippo_operator.manifests.additions import MANAGER, Addition, additions
from ippo_operator.manifests.same import holds
from ippo_operator.manifests.serving import OTHERS_FIELDS

_FIRST, _LONGEST = 1.0, 300.0
_QUIET = 60.0
_KEPT = 10_000
_SHOWN = 4


@dataclass(frozen=True)
class Repair:
    """An object that is not as it should be.

    Args:
        wanted: what is applied.
        found: what there is; None where there is nothing.
        foreign: what others wrote into it.
    """

    wanted: Manifest
    found: Manifest | None
    foreign: tuple[Addition, ...] = ()

    def __str__(self) -> str:
        fields = ", ".join(str(addition) for addition in self.foreign[:_SHOWN])
        more = f" and {len(self.foreign) - _SHOWN} more" if len(self.foreign) > _SHOWN else ""
        managers = ", ".join(sorted({addition.manager for addition in self.foreign}))
        kind, name = self.wanted["kind"], self.wanted["metadata"]["name"]
        return f"{kind} {name} was changed by {managers}; put back: {fields}{more}"


def repair(wanted: Manifest, found: Manifest | None) -> Repair | None:
    """What is wrong with an object; None where it is right, or on its way out."""
    if found is None:
        return Repair(wanted, None)
    if "deletionTimestamp" in found["metadata"]:
        return None
    foreign = tuple(additions(wanted, found, OTHERS_FIELDS[wanted["kind"]]))
    return Repair(wanted, found, foreign) if foreign or not holds(wanted, found) else None


async def mend(client: Client, made: Repair) -> None:
    """Applies what is wanted, then takes out what others added.

    Raises:
        ApiError: the API server refused, or could not be reached.
        ConflictError: the object changed meanwhile, or is another one.
    """
    wanted, found = made.wanted, made.found
    if found is None or not holds(wanted, found) or any(addition.ours for addition in made.foreign):
        found = await _apply(client, made)
    left = additions(wanted, found, OTHERS_FIELDS[wanted["kind"]])
    removals = [{"op": "remove", "path": addition.pointer} for addition in left if not addition.ours]
    if removals:
        await client.patch(resource_of(wanted), found, removals, MANAGER)


async def _apply(client: Client, made: Repair) -> Manifest:
    wanted, found = made.wanted, made.found
    resource, metadata = resource_of(wanted), wanted["metadata"]
    # With the UID of the object that is meant: one that took its name is refused.
    same = {} if found is None else {"uid": found["metadata"]["uid"]}
    manifest = wanted | {"metadata": metadata | same}
    lists = {entry.list_pointer: entry.instead for entry in made.foreign if entry.instead is not None}
    try:
        return await client.apply(resource, metadata["namespace"], metadata["name"], manifest, MANAGER)
    except InvalidError:
        if found is None or not lists:
            raise
    # An entry under another key, as a port of another number, stands beside ours, which has the same name.
    operations = [{"op": "replace", "path": path, "value": entries} for path, entries in lists.items()]
    await client.patch(resource, found, operations, f"{MANAGER}-lists")
    return await client.apply(resource, metadata["namespace"], metadata["name"], manifest, MANAGER)


class Patience:
    """How long objects are left alone that others change, or delete, again and again.

    Args:
        steady: seconds that go on.
    """

    def __init__(self, steady: clock.Steady = clock.steady) -> None:
        self._steady = steady
        self._last: dict[tuple[str, str, str], tuple[str, float, float]] = {}
        """By object: what it was made last, when, and how long it then has rest."""

    def left(self, made: Repair) -> float:
        """Seconds until it may be put right. What it was not before, it may become at once."""
        before, at, rest = self._last.get(_name(made), ("", 0.0, 0.0))
        return max(0.0, at + rest - self._steady()) if before == digest_of(made.wanted) else 0.0

    def mended(self, made: Repair) -> None:
        """Takes note that it was put right."""
        now, wanted = self._steady(), digest_of(made.wanted)
        before, at, rest = self._last.pop(_name(made), ("", now, 0.0))
        again = before == wanted and now - at <= 2 * rest + _QUIET
        self._last[_name(made)] = wanted, now, min(_LONGEST, max(_FIRST, 2 * rest)) if again else 0.0
        if len(self._last) > _KEPT:
            del self._last[next(iter(self._last))]


def _name(made: Repair) -> tuple[str, str, str]:
    metadata = made.wanted["metadata"]
    return str(made.wanted["kind"]), str(metadata["namespace"]), str(metadata["name"])
