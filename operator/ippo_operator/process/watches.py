"""kopf's handlers: any event about a run or a child of one wakes the run's key, and that is all they do.

Low-level event handlers alone add no finalizers and no annotations, and post nothing. They may come twice, late or
never: every pass reads afresh, and the resync catches the rest.

kopf runs in a thread with an event loop of its own, as its documentation has it for embedding
(https://docs.kopf.dev/en/stable/embedding/): when it ends, it ends every task of its loop. It is started again when a
collection is not there any more, for it does not get over that by itself.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from typing import Any, Protocol

import aiohttp
import kopf

from ippo_operator.cluster.access.kubeconfig import Login
from ippo_operator.cluster.access.plugins import Credentials
from ippo_operator.cluster.client import METADATA, METADATA_LIST
from ippo_operator.cluster.connection import connect
from ippo_operator.cluster.observe import job_state
from ippo_operator.cluster.resources import DEPLOYMENTS, JOBS, PODS, RUNS, SERVICES, STATEFUL_SETS, Key, Resource
from ippo_operator.manifests.identity import RUN, RUN_UID

CHILDREN = (JOBS, PODS, DEPLOYMENTS, STATEFUL_SETS, SERVICES)
_PLURALS = {resource.plural for resource in (RUNS, *CHILDREN)}
_SETTLING = 0.5
"""Seconds. A Job and its pods change many times while they start; what it comes to is one pass."""
_PAUSE, _GRACE = 5.0, 10.0
"""Seconds before kopf is started again, and seconds that it has to end."""
_PASSING = {401, 403, 408, 429}
"""kopf asks again after these, and after those from 500 on."""
_log = logging.getLogger("ippo.watches")


class Listener(Protocol):
    """Who is told; called in the event loop that `Watches` was made in."""

    def run_changed(self, key: Key, version: str) -> None:
        """A run was created or changed."""

    def run_deleted(self, key: Key) -> None:
        """A run is gone."""

    def child_changed(self, key: Key, delay: float) -> None:
        """Something that the run owns was created, changed or deleted; a pass may wait for so many seconds.

        Without a delay the run goes on because of it.
        """


class Watches:
    """kopf in a thread, until `stop`. Made in the event loop that the listener lives in.

    Args:
        listener: is told.
        load: gives the login as it is now.
        namespaces: to watch; none for all.
    """

    def __init__(self, listener: Listener, load: Callable[[], Login], namespaces: Sequence[str]) -> None:
        self._listener = listener
        self._load = load
        self._namespaces = list(namespaces)
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._end: Callable[[], object] = lambda: None
        self._refusals: dict[str, str] = {}
        self._thread = threading.Thread(target=self._main, name="kopf", daemon=True)

    @property
    def problem(self) -> str | None:
        """What the API server refuses to have listed or watched; None where all is well."""
        return "; ".join(sorted(self._refusals.values())) or None

    def start(self) -> None:
        """Starts watching."""
        self._thread.start()

    def restart(self) -> None:
        """Has kopf look anew at what there is to watch: it may miss that a CRD comes while it runs."""
        with suppress(RuntimeError):  # it ended by itself, and is about to be started again
            self._end()

    async def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self.restart()
        await asyncio.to_thread(self._thread.join, 30.0)

    # In the thread

    def _main(self) -> None:
        while not self._stopping.is_set():
            try:
                asyncio.run(self._once())
            except Exception as error:
                _log.warning("the watches ended: %r", error, exc_info=True)
            self._stopping.wait(_PAUSE)

    async def _once(self) -> None:
        stop_flag = asyncio.Event()
        self._end = partial(asyncio.get_running_loop().call_soon_threadsafe, stop_flag.set)
        if self._stopping.is_set():
            return
        operator = asyncio.create_task(
            kopf.operator(
                registry=registry(self._listener, LogIn(self._load, self._ask).log_in, self._loop),
                settings=settings(self._namespaces),
                standalone=True,  # no peering of kopf's: `cluster.lease` says who acts
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=stop_flag,
            )
        )
        await asyncio.wait({operator, asyncio.create_task(stop_flag.wait())}, return_when=asyncio.FIRST_COMPLETED)
        ended, _ = await asyncio.wait({operator}, timeout=_GRACE)  # what is left then is cancelled
        for task in ended:
            task.result()

    async def _ask(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """A middleware of kopf's session: asks for no more than the handlers need, and takes note of what is refused.

        How large the rest of an object is, tenants decide.
        """
        plural, path = request.url.name, request.url.path
        if plural not in _PLURALS:
            return await handler(request)
        if "watch" not in request.url.query:
            request.headers["Accept"] = METADATA_LIST
        elif plural != JOBS.plural:  # a Job's status tells whether its run goes on
            request.headers["Accept"] = METADATA
        response = await handler(request)
        if response.ok:
            self._refusals.pop(path, None)
            return response
        self._refusals[path] = f"{response.status} {response.reason} for {path}"
        if response.status < 500 and response.status not in _PASSING:
            self._end()
        return response


def registry(listener: Listener, log_in: Any, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
    """kopf's handlers, which tell the listener in its own event loop."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(log_in)

    @kopf.on.event(*_selector(RUNS), registry=handlers)
    async def run_event(type: str, meta: kopf.Meta, **_: Any) -> None:
        key = meta["namespace"], meta["name"]
        if type == "DELETED":
            loop.call_soon_threadsafe(listener.run_deleted, key)
        else:
            loop.call_soon_threadsafe(listener.run_changed, key, meta["resourceVersion"])

    async def child_event(type: str, meta: kopf.Meta, status: kopf.Status, resource: kopf.Resource, **_: Any) -> None:
        delay = 0.0 if decisive(resource.plural, type, status) else _SETTLING
        loop.call_soon_threadsafe(listener.child_changed, (meta["namespace"], meta.labels.get(RUN, "")), delay)

    for child in CHILDREN:
        kopf.on.event(*_selector(child), labels={RUN_UID: kopf.PRESENT}, registry=handlers)(child_event)
    return handlers


def decisive(plural: str, event: str | None, status: Any) -> bool:
    """Whether the run goes on because of this: a Job that is over or gone, any change of what is neither Job nor
    pod."""
    if plural != JOBS.plural:
        return plural != PODS.plural
    return job_state.over({"status": status}) or event == "DELETED"


class LogIn:
    """kopf's login: a session of the operator's own kind, and another one only with other credentials.

    kopf asks again when the API server answers 401. With what was refused already it would ask for ever.
    """

    def __init__(self, load: Callable[[], Login], *middlewares: aiohttp.ClientMiddlewareType) -> None:
        self._load = load
        self._middlewares = middlewares
        self._last: tuple[Login, Credentials] | None = None

    async def log_in(self, **_: Any) -> kopf.AiohttpSession:
        """Raises kopf.PermanentError, which ends kopf, if there is nothing new to log in with."""
        connection = await connect(
            self._load(), connections=0, middlewares=self._middlewares, response_class=KopfResponse
        )
        shown = (connection.login, connection.credentials)
        if shown == self._last:
            await connection.session.close()
            raise kopf.PermanentError("the API server refuses the credentials, and there are no others")
        self._last = shown
        return kopf.AiohttpSession(
            server=connection.login.server,
            aiohttp_session=connection.session,
            expiration=connection.credentials.expires,
        )


class KopfResponse(aiohttp.ClientResponse):
    """An answer as kopf reads it: to the API server, no metadata at all are null, and to kopf an empty list."""

    async def json(self, **options: Any) -> Any:
        """The body."""
        body = await super().json(**options)
        return body | {"items": []} if isinstance(body, dict) and body.get("items", ()) is None else body


class Backoffs:
    """Seconds between two tries of one request, without an end: kopf does not get over a watch that failed for good."""

    def __iter__(self) -> Iterator[float]:
        return chain((1.0, 2.0, 5.0, 10.0, 30.0), repeat(60.0))


def settings(namespaces: Collection[str]) -> kopf.OperatorSettings:
    """kopf's settings: bounded requests, watches that cannot freeze, only our own objects, nothing posted."""
    values = kopf.OperatorSettings()
    values.posting.enabled = False
    values.scanning.disabled = bool(namespaces)
    values.networking.request_timeout = 30.0
    values.networking.connect_timeout = 10.0
    values.networking.error_backoffs = Backoffs()
    values.watching.connect_timeout = 10.0
    values.watching.server_timeout = 300  # the API server parses a whole number
    values.watching.inactivity_timeout = 90.0
    values.watching.chunk_size = 20  # objects that are held at once
    # kopf keeps what it was told of an object until its worker has been idle for so long.
    values.queueing.idle_timeout = 0.2
    for resource in CHILDREN:
        values.watching.label_selectors[_selector(resource)] = RUN_UID
    # How a pod ended, its Job tells; so thousands of them that are kept are neither listed nor remembered.
    values.watching.field_selectors[_selector(PODS)] = "status.phase!=Succeeded,status.phase!=Failed"
    return values


def _selector(resource: Resource) -> tuple[str, str, str]:
    return resource.group, resource.version, resource.plural
