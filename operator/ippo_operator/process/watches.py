"""kopf's watches: any event about a run or a child of one wakes the run's key, and that is all they do.

Low-level event handlers alone add no finalizers and no annotations, and post nothing. They may come twice, late or
never: every pass reads afresh, and the resync catches the rest.

kopf has a thread and an event loop of its own, because it cancels every task of its loop when it ends, and it is
started again when one of its watchers is missing: kopf goes on without a watcher that ended with an error, and does
not always notice a CRD that comes (back) while it runs.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import kopf

from ippo_operator.cluster.access.kubeconfig import Login
from ippo_operator.cluster.access.plugins import Credentials
from ippo_operator.cluster.client import PAGE
from ippo_operator.cluster.connection import Narrowing, connect
from ippo_operator.cluster.resources import DEPLOYMENTS, JOBS, PODS, RUNS, SERVICES, Resource
from ippo_operator.manifests.identity import RUN, RUN_UID
from ippo_operator.process.narrow import Narrow

Key: TypeAlias = tuple[str, str]
CHILDREN = (JOBS, PODS, DEPLOYMENTS, SERVICES)
_SETTLING = 0.5
"""Seconds. A Job and its pods change many times while they start; what it comes to is one pass."""
_JOBS_KNOWN = 10_000
_ALL = tuple(resource.plural for resource in (RUNS, *CHILDREN))
_SILENCE = 90.0
"""Seconds without a word from the thread, which may wait for a slow start of kopf, before it counts as hanging."""
_FIRST_PATIENCE, _LONGEST_PATIENCE = 10.0, 60.0
_log = logging.getLogger("ippo.watches")


class _NoDiffs(kopf.DiffBaseStorage):
    """Nobody asks kopf what changed in an object, so it copies none of them."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        """Nothing of an object is compared."""
        return {}

    def fetch(self, *, body: Any) -> None:
        """Nothing was ever stored."""

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Nothing is stored."""


class Listener(Protocol):
    """Who is told; called in the event loop that `Watches` was made in."""

    def knows(self, key: Key) -> bool:
        """Whether there is such a run. Called in the watches' own thread."""

    def run_changed(self, key: Key, version: str) -> None:
        """A run was created or changed."""

    def run_deleted(self, key: Key) -> None:
        """A run is gone."""

    def child_changed(self, key: Key, delay: float) -> None:
        """Something that the run owns was created, changed or deleted; a pass may wait for so many seconds.

        Without a delay the run goes on because of it.
        """


class Watches:
    """Watches in a thread, until `stop`. Made in the event loop that the listener lives in.

    Args:
        listener: is told.
        load: gives the login as it is now.
        namespaces: to watch; none for all.
    """

    def __init__(self, listener: Listener, load: Callable[[], Login], namespaces: Sequence[str]) -> None:
        self._listener = listener
        self._load = load
        self._namespaces = tuple(namespaces)
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="kopf", daemon=True)
        self._patience = _FIRST_PATIENCE
        self._known_missing = _ALL
        self._known_at = time.monotonic()

    @property
    def missing(self) -> tuple[str, ...]:
        """The kinds that are not watched now; all of them if the thread ended or hangs."""
        silent = time.monotonic() - self._known_at > _SILENCE
        return _ALL if silent or not self._thread.is_alive() else self._known_missing

    def start(self) -> None:
        """Starts watching."""
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 30.0)

    # In the thread

    def _main(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._once())
            except Exception as error:  # of kopf: a CRD that was removed between two requests, for one
                _log.exception("the watches ended and are started again: %s", error)
                self._stop.wait(self._patience)

    async def _once(self) -> None:
        over = asyncio.Event()
        monitor = asyncio.create_task(self._monitor(over))
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=settings(self._namespaces),
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=list(self._namespaces),
                stop_flag=over,
            )
        finally:
            monitor.cancel()

    async def _monitor(self, over: asyncio.Event) -> None:
        """Ends kopf when it has to end, or to be started again."""
        whole_at = time.monotonic()
        while not self._stop.is_set():
            await asyncio.sleep(0.5)
            missing = _missing(self._namespaces)
            self._known_missing, self._known_at = missing, time.monotonic()
            if not missing:
                whole_at, self._patience = time.monotonic(), _FIRST_PATIENCE
            elif time.monotonic() - whole_at > self._patience:
                _log.warning("not watched: %s; the watches are started again", ", ".join(missing))
                self._patience = min(_LONGEST_PATIENCE, 2 * self._patience)
                break
        over.set()

    def _registry(self) -> kopf.OperatorRegistry:
        made = kopf.OperatorRegistry()
        tell = self._loop.call_soon_threadsafe
        changes = _JobChanges()

        async def run_event(event: Mapping[str, Any], **_: Any) -> None:
            metadata = event["object"]["metadata"]
            key = (metadata["namespace"], metadata["name"])
            if event["type"] == "DELETED":
                tell(self._listener.run_deleted, key)
            else:
                tell(self._listener.run_changed, key, metadata["resourceVersion"])

        async def child_event(event: Mapping[str, Any], **_: Any) -> None:
            metadata = event["object"]["metadata"]
            if changes.matters(event):
                delay = 0.0 if _decisive(event) else _SETTLING
                tell(self._listener.child_changed, (metadata["namespace"], metadata["labels"][RUN]), delay)

        narrow = Narrow((RUNS, *CHILDREN), self._listener.knows)
        kopf.on.login(registry=made)(LogIn(self._load, narrow).log_in)
        kopf.on.event(*_selector(RUNS), registry=made)(run_event)
        for resource in CHILDREN:
            kopf.on.event(*_selector(resource), labels={RUN_UID: kopf.PRESENT}, registry=made)(child_event)
        return made


class LogIn:
    """kopf's login: a session of the operator's own kind, and another one only with other credentials.

    kopf asks again when the API server answers 401. With what was refused already it would ask for ever.
    """

    def __init__(self, load: Callable[[], Login], narrow: Narrowing | None = None) -> None:
        self._load = load
        self._narrow = narrow
        self._last: tuple[Login, Credentials] | None = None

    async def log_in(self, **_: Any) -> kopf.AiohttpSession:
        """Raises kopf.PermanentError, which ends kopf, if there is nothing new to log in with."""
        connection = await connect(self._load(), connections=0, narrow=self._narrow)
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


class _JobChanges:
    """Tells changes of a Job that a run could go on because of from those that only count its pods."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def matters(self, event: Mapping[str, Any]) -> bool:
        """Whether anything else than the count of pods is new; always of other kinds than Jobs."""
        if event["object"]["kind"] != JOBS.kind:
            return True
        child = event["object"]["child"]
        facts: int = child["facts"]
        before = self._known.pop(child["uid"], None)
        if event["type"] == "DELETED":
            return True
        self._known[child["uid"]] = facts
        if len(self._known) > _JOBS_KNOWN:  # those that have been at rest for longest; one pass too many does no harm
            del self._known[next(iter(self._known))]
        return before != facts


def _decisive(event: Mapping[str, Any]) -> bool:
    """Whether the run goes on because of this: a Job that is over or gone, any change of a Deployment or a Service."""
    told = event["object"]
    if told["kind"] != JOBS.kind:
        return str(told["kind"]) != PODS.kind
    return bool(told["child"]["over"]) or event["type"] == "DELETED"


def settings(namespaces: Sequence[str]) -> kopf.OperatorSettings:
    """kopf's settings: bounded requests, watches that cannot freeze, only our own objects, nothing posted."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.peering.standalone = True
    made.scanning.disabled = bool(namespaces)
    made.networking.request_timeout = 30.0
    made.networking.connect_timeout = 10.0
    made.watching.connect_timeout = 10.0
    made.watching.server_timeout = 300  # the API server parses a whole number
    made.watching.inactivity_timeout = 90.0
    made.watching.chunk_size = PAGE
    # kopf keeps what it was told of an object until its worker has been idle for so long.
    made.queueing.idle_timeout = 0.2
    made.persistence.diffbase_storage = _NoDiffs()
    for resource in CHILDREN:
        made.watching.label_selectors[_selector(resource)] = RUN_UID
    # How a pod ended, its Job tells; so thousands of them that are kept are neither listed nor remembered.
    made.watching.field_selectors[_selector(PODS)] = "status.phase!=Succeeded,status.phase!=Failed"
    return made


def _missing(namespaces: Sequence[str]) -> tuple[str, ...]:
    """The kinds of which a watcher does not run in this event loop."""
    running = {task.get_name() for task in asyncio.all_tasks() if not task.done()}
    wanted: list[str | None] = [*namespaces] or [None]
    return tuple(
        resource.plural
        for resource in (RUNS, *CHILDREN)
        if not all(_watcher(resource, namespace) in running for namespace in wanted)
    )


def _watcher(resource: Resource, namespace: str | None) -> str:
    """The name of kopf's task."""
    group = f".{resource.group}" if resource.group else ""
    return f"watcher for {resource.plural}.{resource.version}{group}@{namespace}"


def _selector(resource: Resource) -> tuple[str, str, str]:
    return resource.group, resource.version, resource.plural
