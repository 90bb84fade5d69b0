"""A small client of the Kubernetes API on plain JSON: bounded retries, errors by name, a fence before every write."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ippo_trainer.contract.lines import one_line

from ippo_operator.cluster.clock import ServerClock
from ippo_operator.cluster.errors import ApiError, NotFoundError, UnavailableError, from_response
from ippo_operator.cluster.resources import SERVICES, Resource
from ippo_operator.cluster.transport import LIST_MOST, MERGE_PATCH, OBJECT_MOST, Keep, Request, Response, Transport

Manifest: TypeAlias = dict[str, Any]
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
PAGE = 100
_OK = 200
_SAID = 256
"""Bytes of what a pod says that are told."""
SMALL = 1 << 17
"""Bytes of an object as almost all are; several of them at the same time do no harm."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after how long, a request that may succeed later is sent again."""

    attempts: int = 4
    first_delay: float = 0.25
    longest_delay: float = 10.0
    """Also of what a server asks for: beyond it the request fails, and the run's queue waits instead."""
    timeout: float = 15.0
    """Of one request, in seconds."""
    unanswered: bool = True
    """Also what got no answer; a user would rather know."""


class Client:
    """Requests of one operator process.

    Args:
        transport: sends them.
        fence: called before every attempt to write; raises FencedError if this process must not.
        retries: of one request.
        sleep: waits so many seconds.
        told: called with each error that is retried, for metrics.
        clock: learns the API server's time from its answers.
        most: bytes of one object that are read.
    """

    def __init__(
        self,
        transport: Transport,
        fence: Callable[[], None] = lambda: None,
        retries: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        told: Callable[[UnavailableError], None] = lambda _: None,
        clock: ServerClock | None = None,
        most: int = OBJECT_MOST,
    ) -> None:
        self._transport = transport
        self._fence = fence
        self._retries = retries or RetryPolicy()
        self._sleep = sleep
        self._told = told
        self.clock = clock or ServerClock()
        self._most = most

    async def get(self, resource: Resource, namespace: str, name: str, metadata_only: bool = False) -> Manifest | None:
        """The object, or its metadata; None if there is none."""
        accept = METADATA if metadata_only else "application/json"
        try:
            return await self._object(Request("GET", resource.path(namespace, name), accept=accept))
        except NotFoundError:
            return None

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        keep: Keep | None = None,
        whole: int = LIST_MOST,
    ) -> list[Any]:
        """All objects with these labels and fields, read from the newest state, in pages.

        Args:
            resource: kind of the objects.
            namespace: None for all.
            labels: a selector.
            fields: a selector.
            metadata_only: leave all but the metadata to the server.
            keep: what is kept of each object, or None to pass it over. Without it, all of each.
            whole: bytes of all pages.

        Raises:
            GoneError: the listing took so long that its pages expired; start again.
            TooLargeError: there is more than `whole`, or a single object is larger than this client reads.
        """
        query = {"limit": str(PAGE), "labelSelector": labels, "fieldSelector": fields}
        query = {name: value for name, value in query.items() if value}
        accept = METADATA_LIST if metadata_only else "application/json"
        left = whole
        request = Request("GET", resource.path(namespace), query, accept=accept, keep=keep or _all_of_it)
        items: list[Any] = []
        while True:
            page = await self._answer(replace(request, query=query, whole=left))
            items += page.body.get("items") or ()
            left -= page.size
            following = page.body.get("metadata", {}).get("continue")
            if not following:
                return items
            query = query | {"continue": following}

    async def create(self, resource: Resource, namespace: str, manifest: Manifest) -> Manifest:
        """Returns its metadata. Raises AlreadyExistsError also where an earlier attempt of this very call succeeded
        without an answer."""
        return await self._object(Request("POST", resource.path(namespace), body=manifest, accept=METADATA))

    async def replace(
        self, resource: Resource, namespace: str, name: str, manifest: Manifest, subresource: str | None = None
    ) -> Manifest:
        """PUT; returns the metadata. Raises ConflictError unless the manifest's resourceVersion is the newest."""
        path = resource.path(namespace, name, subresource)
        return await self._object(Request("PUT", path, body=manifest, accept=METADATA))

    async def apply(
        self, resource: Resource, namespace: str, name: str, manifest: Manifest, manager: str, force: bool = True
    ) -> Manifest:
        """Server-side apply: creates the object, or owns the manifest's fields and leaves all others alone.

        Returns the metadata.
        """
        query = {"fieldManager": manager, "force": str(force).lower()}
        path = resource.path(namespace, name)
        return await self._object(Request("PATCH", path, query, manifest, "application/apply-patch+yaml", METADATA))

    async def patch(
        self, resource: Resource, current: Manifest, operations: Sequence[dict[str, Any]], manager: str
    ) -> Manifest:
        """A JSON Patch (RFC 6902) of the object as it was found; raises ConflictError if it changed since.

        Returns the metadata.
        """
        metadata = current["metadata"]
        same = {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]}
        path = resource.path(metadata["namespace"], metadata["name"])
        content = "application/json-patch+json"
        query = {"fieldManager": manager}
        return await self._object(Request("PATCH", path, query, [same, *operations], content, METADATA))

    async def merge(self, resource: Resource, namespace: str, name: str, changes: Manifest) -> Manifest:
        """A JSON Merge Patch (RFC 7386); returns the metadata."""
        return await self._object(Request("PATCH", resource.path(namespace, name), {}, changes, MERGE_PATCH, METADATA))

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str, foreground: bool = False) -> None:
        """Deletes the object with that UID; one that is gone is fine.

        Args:
            uid: of the object that is meant; raises ConflictError if the name is another one's by now.
            foreground: keep the object until its dependents (a Job's pods) are gone.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground" if foreground else "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self.send(Request("DELETE", resource.path(namespace, name), body=body, accept=METADATA))
        except NotFoundError:
            return

    async def ask(self, service: str, namespace: str, path: str, most: int, timeout: float) -> bytes:
        """What a pod behind a Service answers, through the API server's proxy; asked once.

        Whose pod that is may answer anything, in the API server's name, too. So nothing is learnt from it but the body,
        and what kind an error is tells nothing: all of them are ApiError.

        Args:
            service: `name:port`.
            namespace: of the Service.
            path: of the pod's URL.
            most: bytes of the answer that are read.
            timeout: of all of it, in seconds.

        Raises:
            ApiError: there is no answer of that size in that time, or it says no. The message is one line.
        """
        proxy = SERVICES.path(namespace, service, f"proxy{path}")
        response = await self._transport.send(Request("GET", proxy, most=most, foreign=True), timeout)
        if response.status != _OK:
            raise ApiError(_refusal(response), response.status)
        return bytes(response.body)

    async def _object(self, request: Request) -> Manifest:
        """The object, or the metadata, that is answered. A proxy between may answer anything, and say that all is well:
        what would come of that, such as a Job without an owner, is not to be believed."""
        answer = await self.send(request)
        metadata = answer.get("metadata") if isinstance(answer, dict) else None
        if not isinstance(metadata, dict) or not metadata.get("uid") or not metadata.get("resourceVersion"):
            raise UnavailableError(f"{request.method} {request.path}: the answer is no object of Kubernetes")
        return dict(answer)

    async def send(self, request: Request) -> Any:
        """The body of a successful answer. Raises an ApiError of the refusal, FencedError before a write."""
        return (await self._answer(request)).body

    async def _answer(self, request: Request) -> Response:
        """A successful answer. Raises an ApiError of the refusal, FencedError before a write."""
        request = replace(request, most=self._most)
        delay = self._retries.first_delay
        for left in reversed(range(self._retries.attempts)):
            if request.writes:
                self._fence()
            try:
                return await self._once(request)
            except UnavailableError as error:
                self._told(error)
                wait = error.retry_after if error.retry_after is not None else delay * (1 + random.random())  # noqa: S311
                lost = error.status == 0 and not self._retries.unanswered
                if not left or lost or wait > self._retries.longest_delay:
                    raise
            await self._sleep(wait)
            delay *= 2
        raise AssertionError("a retry policy has at least one attempt")

    async def _once(self, request: Request) -> Response:
        response = await self._transport.send(request, self._retries.timeout)
        self.clock.heard(response.headers.get("Date"))
        if 200 <= response.status < 300:
            return response
        raise from_response(response.status, response.headers, response.body)


def _refusal(response: Response) -> str:
    """Why a pod, or the API server in its place, says no."""
    try:
        said = json.loads(response.body)
    except (ValueError, RecursionError):
        said = None
    said = said.get("error", said) if isinstance(said, dict) else None  # as OpenAI's API says it, or Kubernetes'
    message = said.get("message") if isinstance(said, dict) else None
    return f"HTTP {response.status}" + (f": {one_line(message, _SAID)}" if isinstance(message, str) else "")


def _all_of_it(item: Manifest) -> Manifest:
    return item
