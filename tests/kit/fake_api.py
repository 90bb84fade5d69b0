"""An API server in memory, behind the client's Transport: what the operator relies on, and faults on demand.

It has uids, generations, one resourceVersion sequence, optimistic conflicts, isolation of the status subresource,
create-only names, UID preconditions, garbage collection by ownerReferences, foreground deletion of Jobs, finalizers,
label selectors, pages, field merge for server-side apply, JSON patches that remove, and metav1.Status errors.
"""

import itertools
import json
import pickle
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

from ippo_operator.cluster.errors import TooLargeError, UnavailableError
from ippo_operator.cluster.transport import OBJECT_MOST, ListReader, Request, Response

from tests.kit.places import misplaced

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Plural, namespace, name."""

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
_PROXY = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/services/(?P<service>[^/]+)/proxy(?P<path>/.*)")
WITH_STATUS = {"iterativepporuns", "jobs", "pods", "deployments", "statefulsets"}


def copied(value: Any) -> Any:
    """A deep copy of plain data, seven times as quick as `copy.deepcopy`: most of these tests' time went there."""
    return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


class Died(BaseException):
    """The operator's process dies here. A BaseException, so that nothing handles it."""


@dataclass
class FakeApi:
    """Objects by key, and hooks that see every request."""

    objects: dict[Key, Object] = field(default_factory=dict)
    calls: list[Request] = field(default_factory=list)
    before: Callable[[int, Request], Response | None] = lambda _number, _request: None
    """Called before the effect with the number of the call; may raise, or answer in the server's place."""
    after: Callable[[int, Request, Response], Response | None] = lambda _number, _request, _response: None
    """Called after the effect; may raise or replace the answer."""
    on_change: Callable[[str, Object], None] = lambda _kind, _object: None
    """ADDED, MODIFIED or DELETED, as a watch would tell. The object is the server's own: only to be looked at."""
    created: list[Key] = field(default_factory=list)
    """Every object ever created through `send`, also those deleted since."""
    behind: Callable[[str, str], bytes | None] = lambda _service, _path: None
    """What pods answer behind the proxy of a Service, `namespace/name:port`; None: there are none."""
    now: str = "2026-01-31T12:00:00Z"
    clock: Callable[[], datetime] | None = None
    """What it dates its answers and new objects by, if it does."""
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _uids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # The transport

    async def send(self, request: Request, timeout: float) -> Response:
        """See Transport."""
        number = len(self.calls)
        self.calls.append(replace(request, query=dict(request.query), body=copied(request.body)))
        instead = self.before(number, request)
        if instead is not None:
            return narrowed(request, instead)
        self._look_at_clock()
        response = self._serve(request)
        if self.clock is not None:
            response = replace(response, headers={"Date": format_datetime(self.clock(), usegmt=True)})
        replaced = self.after(number, request, response)
        return narrowed(request, replaced if replaced is not None else response)

    def _look_at_clock(self) -> None:
        if self.clock is not None:
            self.now = self.clock().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _serve(self, request: Request) -> Response:
        proxied = _PROXY.fullmatch(request.path)
        if proxied is not None:
            return self._proxied(f"{proxied['namespace']}/{unquote(proxied['service'])}", proxied["path"])
        match = _PATH.fullmatch(request.path)
        assert match is not None, request.path
        plural, namespace, name, sub = match["plural"], match["namespace"], match["name"], match["sub"]
        body = json.loads(json.dumps(request.body)) if request.body is not None else None
        try:
            if request.method == "GET":
                result = (
                    self._list(plural, namespace, request) if name is None else self._found(plural, namespace, name)
                )
                return Response(200, {}, copied(result) if request.keep is None else result)  # else it is read anew
            if request.method == "POST":
                return Response(201, {}, copied(self._create(plural, namespace, body)))
            if request.method == "DELETE":
                return Response(200, {}, self._delete(plural, namespace, name, body or {}))
            changed = self._write(plural, namespace, name, sub, body, request)
            return Response(200, {}, copied(changed))
        except _Refused as refused:
            return refused.response

    def _proxied(self, service: str, path: str) -> Response:
        body = self.behind(service, path)
        if body is not None:
            return Response(200, {}, body)
        refused = answer(503, "ServiceUnavailable", f'no endpoints available for service "{service}"')
        return replace(refused, body=json.dumps(refused.body).encode())

    # Reads

    def _found(self, plural: str, namespace: str, name: str) -> Object:
        try:
            return self.objects[plural, namespace, name]
        except KeyError:
            raise refusal(404, "NotFound", f'{plural} "{name}" not found') from None

    def _list(self, plural: str, namespace: str | None, request: Request) -> Object:
        labels = dict(part.split("=", 1) for part in request.query.get("labelSelector", "").split(",") if "=" in part)
        fields = [part.split("=", 1) for part in request.query.get("fieldSelector", "").split(",") if part]
        keys = [part for part in request.query.get("labelSelector", "").split(",") if part and "=" not in part]
        items = [
            item
            for (kind, place, _), item in sorted(self.objects.items())
            if kind == plural
            and namespace in {None, place}
            and all(labels_of(item).get(key) == value for key, value in labels.items())
            and all(key in labels_of(item) for key in keys)
            and all(field_of(item, path) == value for path, value in fields)
        ]
        start, limit = int(request.query.get("continue", "0")), int(request.query.get("limit", "500"))
        following = str(start + limit) if start + limit < len(items) else ""
        return {"kind": "List", "metadata": {"continue": following}, "items": items[start : start + limit]}

    # Writes

    def _create(self, plural: str, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        key = (plural, namespace, name)
        if key in self.objects:
            raise refusal(409, "AlreadyExists", f'{plural} "{name}" already exists')
        if plural in WITH_STATUS:
            body.pop("status", None)
        body["metadata"] |= {
            "creationTimestamp": self.now,
            "namespace": namespace,
            "uid": str(uuid.UUID(int=next(self._uids))),
            "generation": 1,
        }
        self.created.append(key)
        return self._store(key, body, "ADDED")

    def _write(self, plural: str, namespace: str, name: str, sub: str | None, body: Object, request: Request) -> Object:
        key = (plural, namespace, name)
        applied = request.content_type == "application/apply-patch+yaml"
        if applied:
            body["metadata"]["managedFields"] = [
                {"manager": request.query["fieldManager"], "operation": "Apply", "time": self.now}
            ]
        if applied and key not in self.objects:
            return self._create(plural, namespace, body)
        old = self._found(plural, namespace, name)
        if isinstance(body, dict) and body.get("kind") == "PartialObjectMetadata":
            raise refusal(400, "BadRequest", "the kind in the data does not match the expected one")
        new = body if request.method == "PUT" else _patched(copied(old), body)
        self._check_same(old, new, f'{plural} "{name}"')
        if sub == "status":
            new = old | {"status": new.get("status")}
            assert plural != "iterativepporuns" or not misplaced(new["status"]), misplaced(new["status"])
        elif plural in WITH_STATUS:
            new = {key: value for key, value in new.items() if key != "status"}
            new |= {"status": old["status"]} if "status" in old else {}
        new = copied(new)
        if sub is None:
            kept = {name: old["metadata"][name] for name in ("uid", "generation", "namespace")}
            new["metadata"] = new["metadata"] | kept
            new["metadata"]["generation"] += new.get("spec") != old.get("spec")
        if strip_version(new) == strip_version(old):
            return old
        return self._store(key, new, "MODIFIED")

    def _check_same(self, old: Object, new: Object, what: str) -> None:
        for name in ("resourceVersion", "uid"):
            value = new.get("metadata", {}).get(name)
            if value is not None and value != old["metadata"][name]:
                raise refusal(409, "Conflict", f"{what}: the object has been modified ({name})")

    def _store(self, key: Key, body: Object, event: str) -> Object:
        body["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[key] = body
        self.on_change(event, body)
        return body

    def _delete(self, plural: str, namespace: str, name: str, options: Object) -> Object:
        item = self._found(plural, namespace, name)
        uid = options.get("preconditions", {}).get("uid")
        if uid is not None and uid != item["metadata"]["uid"]:
            raise refusal(409, "Conflict", f'{plural} "{name}": the UID in the precondition does not match')
        if options.get("propagationPolicy") == "Foreground" or item["metadata"].get("finalizers"):
            if "deletionTimestamp" not in item["metadata"]:
                item = copied(item)
                item["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
                self._store((plural, namespace, name), item, "MODIFIED")
            return item
        self.remove(plural, namespace, name)
        return item

    # For tests and controllers

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """Deletes an object and, as the garbage collector does, all that it owns."""
        gone = self.objects.pop((plural, namespace, name))
        self.on_change("DELETED", gone)
        for (kind, place, other), item in list(self.objects.items()):
            owners = item["metadata"].get("ownerReferences") or []
            if (
                any(owner["uid"] == gone["metadata"]["uid"] for owner in owners)
                and (kind, place, other) in self.objects
            ):
                self.remove(kind, place, other)

    def put(self, plural: str, body: Object) -> Object:
        """Creates an object from outside, in namespace default where it has none."""
        namespace = body["metadata"].get("namespace", "default")
        body = copied(body)
        self._look_at_clock()
        status = body.get("status")
        item = self._create(plural, namespace, body)
        self.created.pop()
        return self.edit(plural, namespace, item["metadata"]["name"], status=status) if status else item

    def edit(self, plural: str, namespace: str, name: str, **fields: Any) -> Object:
        """Replaces whole top-level fields from outside; a changed spec raises the generation."""
        old = self.objects[plural, namespace, name]
        new = copied(old) | copied(fields)
        new["metadata"]["generation"] += new.get("spec") != old.get("spec")
        return self._store((plural, namespace, name), new, "MODIFIED")

    def skip_versions(self, version: int) -> None:
        """The next resourceVersion and uid are larger than any that a copied state has."""
        self._versions, self._uids = itertools.count(version + 1), itertools.count(version + 1)

    def all(self, plural: str) -> list[Object]:
        """All objects of a kind."""
        return [item for (kind, _, _), item in sorted(self.objects.items()) if kind == plural]


class _Refused(Exception):  # noqa: N818
    def __init__(self, response: Response) -> None:
        super().__init__(response.body["message"])
        self.response = response


def refusal(status: int, reason: str, message: str) -> "_Refused":
    """As the server says no."""
    return _Refused(answer(status, reason, message))


def narrowed(request: Request, response: Response) -> Response:
    """As the real transport reads it, and as the server cuts it down where only metadata is asked for."""
    if request.writes and "PartialObjectMetadata;" in request.accept and "metadata" in (response.body or {}):
        kind = {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata"}
        return replace(response, body=kind | {"metadata": response.body["metadata"]})
    if response.status != 200 or request.foreign or not isinstance(response.body, dict):
        return response
    if request.keep is None:
        if request.most < OBJECT_MOST and len(json.dumps(response.body)) > request.most:
            raise TooLargeError(f"{request.method} {request.path}: the answer has more than {request.most} bytes")
        return response
    reader = ListReader(request.keep, request.most, request.whole)
    reader.feed(json.dumps(response.body).encode())
    return replace(response, body=reader.close(), size=reader.size)


def answer(status: int, reason: str, message: str = "", **headers: str) -> Response:
    """A metav1.Status."""
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message or reason, "code": status}
    return Response(status, headers, body)


def lost(request: Request) -> UnavailableError:
    """No answer came."""
    return UnavailableError(f"{request.method} {request.path}: time-out")


def labels_of(item: Object) -> dict[str, str]:
    """Labels."""
    return item["metadata"].get("labels") or {}


def field_of(item: Object, path: str) -> Any:
    """A field by its dotted path."""
    for part in path.split("."):
        item = item.get(part) or {}
    return item


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = old if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def _patched(old: Object, patch: Any) -> Object:
    return merged(old, patch) if isinstance(patch, dict) else _operated(old, patch)


def _operated(old: Object, operations: list[Object]) -> Object:
    """RFC 6902, as far as it removes and replaces."""
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"][1:].split("/")]
        place: Any = old
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        step = int(last) if isinstance(place, list) else last
        if operation["op"] == "remove":
            del place[step]
        else:
            place[step] = operation["value"]
    return old


def strip_version(item: Object) -> Object:
    """Without what every write changes."""
    metadata = {k: v for k, v in item["metadata"].items() if k not in {"resourceVersion", "managedFields"}}
    return item | {"metadata": metadata}
