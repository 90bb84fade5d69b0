"""Puts a kept object right: what we want is applied, what others added is taken out.

Who is right is not settled by speed: an object that somebody changes again and again is put right less and less often.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ippo_trainer.contract.digests import digest_of

from ippo_operator.cluster import clock
from ippo_operator.cluster.client import Client, Manifest
from ippo_operator.cluster.errors import ApiError, InvalidError, refuses_object
from ippo_operator.cluster.resources import resource_of
from ippo_operator.manifests.additions import OVERWRITER, Addition, additions
from ippo_operator.manifests.identity import MANAGER
from ippo_operator.manifests.same import holds
from ippo_operator.manifests.serving import OTHERS_FIELDS

_FIRST, _LONGEST = 1.0, 300.0
_QUIET = 60.0
_REMEMBERED = 10_000
_SHOWN = 4


@dataclass(frozen=True)
class Repair:
    """An object that is not as it should be.

    Args:
        desired: what is applied.
        current: what there is; None where there is nothing.
        foreign: what others wrote into it.
    """

    desired: Manifest
    current: Manifest | None
    foreign: tuple[Addition, ...] = ()

    def __str__(self) -> str:
        fields = ", ".join(str(addition) for addition in self.foreign[:_SHOWN])
        more = f" and {len(self.foreign) - _SHOWN} more" if len(self.foreign) > _SHOWN else ""
        managers = ", ".join(sorted({addition.manager for addition in self.foreign}))
        kind, name = self.desired["kind"], self.desired["metadata"]["name"]
        return f"{kind} {name} was changed by {managers}; put back: {fields}{more}"


def repair(desired: Manifest, current: Manifest | None) -> Repair | None:
    """What is wrong with an object; None where it is right, or on its way out."""
    if current is None:
        return Repair(desired, None)
    if "deletionTimestamp" in current["metadata"]:
        return None
    right = holds(desired, current)
    foreign = tuple(additions(desired, current, OTHERS_FIELDS[desired["kind"]], also_ours=right))
    return Repair(desired, current, foreign) if foreign or not right else None


async def mend(client: Client, due: Repair) -> None:
    """Applies what is wanted, then takes out what others added.

    Raises:
        ApiError: the API server refused, or could not be reached.
        ConflictError: the object changed meanwhile, or is another one.
    """
    try:
        await _field_by_field(client, due)
    except InvalidError:
        if due.current is None or not due.foreign:
            raise
        if "spec" in due.desired:
            await _overwrite(client, due.desired)
        else:
            await _make_anew(client, due.desired, due.current)


async def _field_by_field(client: Client, due: Repair) -> None:
    desired, current = due.desired, due.current
    left: Sequence[Addition] = [addition for addition in due.foreign if not addition.ours]
    if current is None or not holds(desired, current) or len(left) < len(due.foreign):
        await _apply(client, desired, current)
        current = await _read(client, desired) if left else None
        left = (
            additions(desired, current, OTHERS_FIELDS[desired["kind"]], also_ours=True) if current is not None else []
        )
    if current is None:
        return
    paths = [path for addition in left if not addition.ours for path in addition.pointers(current)]
    if paths:
        removals = [{"op": "remove", "path": path} for path in dict.fromkeys(paths)]
        await client.patch(resource_of(desired), current, removals, MANAGER)


async def _overwrite(client: Client, desired: Manifest) -> None:
    """For fields that exclude each other: two kinds of a probe, a variable's value and its source, ports of one name.

    Side by side with ours they are refused, so all of the spec is replaced. What a webhook put in goes with that, and
    the webhook is asked again. Whoever replaced it owns nothing afterwards: what is applied later has to be able to go.
    """
    current = await _read(client, desired)
    if current is None:
        return
    resource = resource_of(desired)
    spec = _with_theirs(desired, current, OTHERS_FIELDS[desired["kind"]])["spec"]
    await client.patch(resource, current, [{"op": "replace", "path": "/spec", "value": spec}], OVERWRITER)
    applied = await _apply(client, desired, current)
    books = [entry for entry in applied["metadata"].get("managedFields") or () if entry.get("manager") != OVERWRITER]
    await client.patch(
        resource, applied, [{"op": "replace", "path": "/metadata/managedFields", "value": books}], MANAGER
    )


async def _make_anew(client: Client, desired: Manifest, current: Manifest) -> None:
    """A ConfigMap that somebody made immutable."""
    metadata = current["metadata"]
    await client.delete(resource_of(desired), metadata["namespace"], metadata["name"], metadata["uid"])
    await _apply(client, desired, None)


async def _apply(client: Client, desired: Manifest, current: Manifest | None) -> Manifest:
    metadata = desired["metadata"]
    # With the UID of the object that is meant: one that took its name is refused.
    same = {} if current is None else {"uid": current["metadata"]["uid"]}
    manifest = desired | {"metadata": metadata | same}
    return await client.apply(resource_of(desired), metadata["namespace"], metadata["name"], manifest, MANAGER)


async def _read(client: Client, desired: Manifest) -> Manifest | None:
    return await client.get(resource_of(desired), desired["metadata"]["namespace"], desired["metadata"]["name"])


def _with_theirs(desired: Manifest, current: Manifest, others: Iterable[str]) -> Manifest:
    """What is wanted, with what is there of the fields that are theirs to set."""
    result = copy.deepcopy(desired)
    for path in others:
        *above, last = path.split(".")
        inside, there = result, current
        for step in above:
            inside, there = inside[step], there[step]
        if last in there:
            inside[last] = _below(there[last], inside.get(last))
    return result


def _below(theirs: Any, ours: Any) -> Any:
    """Ours counts where both say something."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return theirs | {name: _below(theirs.get(name), value) for name, value in ours.items()}
    return theirs if ours is None else ours


@dataclass(frozen=True)
class Repairs:
    """What was put right.

    Args:
        messages: what others had changed, one line for each object.
        wait: seconds until an object may be put right again that somebody changes again and again.
    """

    messages: tuple[str, ...] = ()
    wait: float | None = None


async def put_right(client: Client, repairs: Iterable[Repair], backoff: "RepairBackoff") -> Repairs:
    """Puts right what is not as it should be; what is refused of one object does not hold up the others.

    Raises:
        ApiError: the API server refused, or could not be reached.
        ConflictError: an object is another one by now.
    """
    messages, waits = [], []
    refused: ApiError | None = None
    for due in repairs:
        wait = backoff.wait(due)
        if wait:
            waits.append(wait)
            continue
        try:
            await mend(client, due)
        except ApiError as error:
            if not refuses_object(error):
                raise
            refused = refused or error
            continue
        backoff.note(due)
        if due.foreign:
            messages.append(str(due))
    if refused is not None:
        raise refused
    return Repairs(tuple(messages), min(waits, default=None))


class RepairBackoff:
    """How long objects are left alone that others change, or delete, again and again.

    Args:
        steady: seconds that go on.
    """

    def __init__(self, steady: clock.Steady = clock.steady) -> None:
        self._steady = steady
        self._last: dict[tuple[str, str, str], tuple[str, float, float]] = {}
        """By object: what it was made last, when, and how long it then has rest."""

    def wait(self, due: Repair) -> float:
        """Seconds until it may be put right. What it was not before, it may become at once."""
        before, at, rest = self._last.get(_name(due), ("", 0.0, 0.0))
        return max(0.0, at + rest - self._steady()) if before == digest_of(due.desired) else 0.0

    def note(self, due: Repair) -> None:
        """Takes note that it was put right."""
        now, desired = self._steady(), digest_of(due.desired)
        before, at, rest = self._last.pop(_name(due), ("", now, 0.0))
        again = before == desired and now - at <= 2 * rest + _QUIET
        self._last[_name(due)] = desired, now, min(_LONGEST, max(_FIRST, 2 * rest)) if again else 0.0
        if len(self._last) > _REMEMBERED:
            del self._last[next(iter(self._last))]


def _name(due: Repair) -> tuple[str, str, str]:
    metadata = due.desired["metadata"]
    return str(due.desired["kind"]), str(metadata["namespace"]), str(metadata["name"])
