"""A small client of the Kubernetes API on plain JSON: bounded retries, errors by name, a fence before every write."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ippo_operator.cluster.clock import ServerClock
from ippo_operator.cluster.errors import NotFoundError, UnavailableError, from_response
from ippo_operator.cluster.resources import Resource
from ippo_operator.cluster.transport import Request, Transport

Manifest: TypeAlias = dict[str, Any]
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
PAGE = 200


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
    """

    def __init__(
        self,
        transport: Transport,
        fence: Callable[[], None] = lambda: None,
        retries: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        told: Callable[[UnavailableError], None] = lambda _: None,
        clock: ServerClock | None = None,
    ) -> None:
        self._transport = transport
        self._fence = fence
        self._retries = retries or RetryPolicy()
        self._sleep = sleep
        self._told = told
        self.clock = clock or ServerClock()

    async def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """The object; None if there is none."""
        try:
            found: Manifest = await self.send(Request("GET", resource.path(namespace, name)))
        except NotFoundError:
            return None
        return found

    async def list(
        self,
        resource: Resource,
        namespace: str | None,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
    ) -> list[Manifest]:
        """All objects with these labels and fields, read from the newest state, in pages.

        Raises:
            GoneError: the listing took so long that its pages expired; start again.
        """
        query = {"limit": str(PAGE), "labelSelector": labels, "fieldSelector": fields}
        query = {name: value for name, value in query.items() if value}
        accept = METADATA_ONLY if metadata_only else "application/json"
        return [item async for item in self._pages(resource.path(namespace), query, accept)]

    async def _pages(self, path: str, query: dict[str, str], accept: str) -> AsyncIterator[Manifest]:
        while True:
            page = await self.send(Request("GET", path, query, accept=accept))
            for item in page.get("items") or ():
                yield item
            following = page.get("metadata", {}).get("continue")
            if not following:
                return
            query = query | {"continue": following}

    async def create(self, resource: Resource, namespace: str, manifest: Manifest) -> Manifest:
        """Raises AlreadyExistsError also where an earlier attempt of this very call succeeded without an answer."""
        made: Manifest = await self.send(Request("POST", resource.path(namespace), body=manifest))
        return made

    async def replace(
        self, resource: Resource, namespace: str, name: str, manifest: Manifest, subresource: str | None = None
    ) -> Manifest:
        """PUT; raises ConflictError unless the manifest's resourceVersion is the newest."""
        made: Manifest = await self.send(Request("PUT", resource.path(namespace, name, subresource), body=manifest))
        return made

    async def apply(
        self, resource: Resource, namespace: str, name: str, manifest: Manifest, manager: str, force: bool = True
    ) -> Manifest:
        """Server-side apply: creates the object, or owns the manifest's fields and leaves all others alone."""
        query = {"fieldManager": manager, "force": str(force).lower()}
        path = resource.path(namespace, name)
        request = Request("PATCH", path, query, manifest, content_type="application/apply-patch+yaml")
        made: Manifest = await self.send(request)
        return made

    async def patch(
        self, resource: Resource, found: Manifest, operations: Sequence[dict[str, Any]], manager: str
    ) -> Manifest:
        """A JSON Patch (RFC 6902) of the object as it was found; raises ConflictError if it changed since."""
        metadata = found["metadata"]
        same = {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]}
        path = resource.path(metadata["namespace"], metadata["name"])
        content = "application/json-patch+json"
        request = Request("PATCH", path, {"fieldManager": manager}, [same, *operations], content_type=content)
        made: Manifest = await self.send(request)
        return made

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
            await self.send(Request("DELETE", resource.path(namespace, name), body=body))
        except NotFoundError:
            return

    async def send(self, request: Request) -> Any:
        """The body of a successful answer. Raises an ApiError of the refusal, FencedError before a write."""
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

    async def _once(self, request: Request) -> Any:
        response = await self._transport.send(request, self._retries.timeout)
        self.clock.heard(response.headers.get("Date"))
        if 200 <= response.status < 300:
            return response.body
        raise from_response(response.status, response.headers, response.body)
