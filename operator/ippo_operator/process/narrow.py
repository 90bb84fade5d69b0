"""kopf's requests, narrowed: of each object only what its run has to be woken for reaches kopf.

kopf reads whole pages and keeps whole objects while it works on them, and something of each object for ever. What is in
an object, and how many there are, tenants decide. So the server is asked for metadata only, bodies are read one object
at a time, and children of runs that are not known go no further.
"""

import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp

from ippo_operator.cluster.client import METADATA, METADATA_LIST
from ippo_operator.cluster.resources import JOBS, RUNS, Resource
from ippo_operator.cluster.streams import LineReader, ListReader, TooLongError
from ippo_operator.cluster.transport import EVERYTHING, OBJECT_MOST, PIECE
from ippo_operator.manifests.identity import RUN, RUN_UID

Key = tuple[str, str]
Item = Mapping[str, Any]
_TOLD_BY = ("generation", "deletionTimestamp", "labels", "annotations", "ownerReferences")
_OVER = {"Complete", "Failed"}
_COLLECTION = re.compile(r"(/api/[^/]+|/apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/([^/]+)$")
_LANES = 64
"""kopf keeps a queue, a worker and a record for each UID that it is told."""
_log = logging.getLogger("ippo.watches")


class Narrow:
    """What goes on to kopf.

    Args:
        resources: the kinds that are watched.
        known: whether there is such a run, as far as its own watch told.
    """

    def __init__(self, resources: tuple[Resource, ...], known: Callable[[Key], bool]) -> None:
        self._resources = {resource.path(None): resource for resource in resources}
        self._known = known

    async def ask(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """See Narrowing: asks for metadata only."""
        resource = self.resource(request.url.path)
        if resource is not None and "watch" not in request.url.query:
            request.headers["Accept"] = METADATA_LIST
        elif resource is not None and resource != JOBS:  # a Job's status tells whether its run goes on
            request.headers["Accept"] = METADATA
        return await handler(request)

    def response_class(self) -> type[aiohttp.ClientResponse]:
        """See Narrowing."""
        return _response_class(self)

    def resource(self, path: str) -> Resource | None:
        """Which of the watched kinds a collection is of; None: of none."""
        found = _COLLECTION.search(path)
        return self._resources.get(f"{found[1]}/{found[2]}") if found is not None else None

    def kept(self, resource: Resource, item: Item) -> dict[str, Any] | None:
        """What kopf is told of an object; None: nothing."""
        metadata = item["metadata"]
        if resource == RUNS:
            return _told(resource, metadata, (metadata["namespace"], metadata["name"]))
        labels = metadata.get("labels") or {}
        key = (metadata["namespace"], labels.get(RUN, ""))
        if not self._known(key):
            return None
        told = _told(resource, metadata, key) | {"child": _child(item)}
        told["metadata"]["labels"] = {name: labels[name] for name in (RUN, RUN_UID) if name in labels}
        return told

    def event(self, resource: Resource, line: bytes) -> bytes:
        """What kopf is told of a line of a watch; of an object that is no matter, only how far the watch is."""
        told = json.loads(line)
        if told.get("type") not in {"ADDED", "MODIFIED", "DELETED"}:
            return line
        kept = self.kept(resource, told["object"])
        if kept is None:
            version = told["object"]["metadata"]["resourceVersion"]
            told = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}
        else:
            told = {"type": told["type"], "object": kept}
        return json.dumps(told).encode()


def _told(resource: Resource, metadata: Item, key: Key) -> dict[str, Any]:
    """An object with a UID that it shares with those of other runs, so that kopf keeps no more of thousands."""
    lane = f"{resource.plural}-{hash(key) % _LANES}"
    kept = {name: metadata[name] for name in ("name", "namespace", "resourceVersion")}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": kept | {"uid": lane}}


def _child(item: Item) -> dict[str, Any]:
    """Which object it is, whether it is a Job that is over, and a number that changes with what matters of it."""
    metadata, conditions = item["metadata"], (item.get("status") or {}).get("conditions") or ()
    over = any(c.get("type") in _OVER and c.get("status") == "True" for c in conditions)
    facts = hash(repr(([metadata.get(name) for name in _TOLD_BY], over)))
    return {"uid": metadata["uid"], "over": over, "facts": facts}


def _response_class(narrow: Narrow) -> type[aiohttp.ClientResponse]:
    class Response(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            await super().start(connection)
            resource = narrow.resource(self.url.path) if self.ok else None
            if resource is not None and "watch" in self.url.query:
                self.content = _Lines(self.content, narrow, resource)  # type: ignore[assignment]
            return self

        async def json(self, **given: Any) -> Any:
            resource = narrow.resource(self.url.path) if self.ok else None
            if resource is None:
                return await super().json(**given)
            reader = ListReader(lambda item: narrow.kept(resource, item), OBJECT_MOST, EVERYTHING)
            try:
                async for piece in self.content.iter_chunked(PIECE):
                    reader.feed(piece)
                return reader.close()
            except (TooLongError, ValueError, RecursionError) as error:
                _log.warning("%s cannot be listed: %s", resource.plural, error)
                raise aiohttp.ClientPayloadError(str(error)) from None  # kopf lists again

    return Response


class _Lines:
    """The content of a watch's response. kopf takes it in pieces."""

    def __init__(self, content: aiohttp.StreamReader, narrow: Narrow, resource: Resource) -> None:
        self._content = content
        self._narrow = narrow
        self._resource = resource

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, _size: int) -> AsyncIterator[bytes]:
        """Narrowed lines, one at a time."""
        reader = LineReader(OBJECT_MOST, self._too_long)
        async for piece in self._content.iter_chunked(PIECE):
            for line in reader.feed(piece):
                yield self._narrow.event(self._resource, line) + b"\n"

    def _too_long(self) -> None:
        _log.warning("a change of one of the %s is too large to be read", self._resource.plural)
