"""Runs, their pods and logs, as a user of a namespace reads and changes them."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from ippo_operator.cluster.errors import NotFoundError
from ippo_operator.cluster.remote.calls import Calls
from ippo_operator.cluster.resources import PODS, RUNS, Resource
from ippo_operator.cluster.transport import MERGE_PATCH, Request
from ippo_operator.manifests.identity import COMPONENT, RUN_UID, STAGE_COMPONENT
from ippo_operator.manifests.jobs import CONTAINER

Object: TypeAlias = dict[str, Any]
MANAGER = "ippo"
PAGE = 200
_TEXT = "application/json, */*"
_NAMESPACES = "/api/v1/namespaces"
_SECRETS = Resource("", "v1", "secrets", "Secret")
_ANY = f"/apis/{RUNS.group}/{RUNS.version}"


class Runs:
    """The runs that a user can see."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    @property
    def namespace(self) -> str:
        """The user's: of the command line, or of the context."""
        return self.calls.login.namespace

    def get(self, name: str) -> Object:
        """The run. Raises NotFoundError if there is none."""
        return self.calls.request(Request("GET", RUNS.path(self.namespace, name)))

    def all(self, everywhere: bool = False) -> list[Object]:
        """The namespace's runs by name, or those of all namespaces."""
        place = None if everywhere else self.namespace
        items = self._items(RUNS.path(place), {})
        return sorted(items, key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"]))

    def namespaces(self) -> list[str]:
        """The names of all namespaces."""
        return [str(item["metadata"]["name"]) for item in self._items(_NAMESPACES, {})]

    def installed(self) -> bool:
        """Whether the API server knows runs at all."""
        try:
            self.calls.request(Request("GET", _ANY))
        except NotFoundError:
            return False
        return True

    def patch(self, name: str, patch: Object, dry: bool = False) -> Object:
        """A JSON merge patch; returns the run as it is (or would be) afterwards.

        Raises:
            ConflictError: the patch names a resourceVersion that is not the newest.
        """
        query = {"fieldManager": MANAGER, "dryRun": "All" if dry else ""}
        path = RUNS.path(self.namespace, name)
        return self.calls.request(Request("PATCH", path, query, patch, content_type=MERGE_PATCH))

    def create(self, manifest: Object, dry: bool) -> Object:
        """POST."""
        query = {"fieldManager": MANAGER, "dryRun": "All" if dry else ""}
        return self.calls.request(Request("POST", RUNS.path(self.namespace), query, manifest))

    def pods(self, run: Object, labels: dict[str, str]) -> list[Object]:
        """The run's stage pods with these labels."""
        selected = {RUN_UID: str(run["metadata"]["uid"]), COMPONENT: STAGE_COMPONENT, **labels}
        selector = ",".join(f"{key}={value}" for key, value in selected.items())
        return list(self._items(PODS.path(str(run["metadata"]["namespace"])), {"labelSelector": selector}))

    def log(self, pod: Object, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """The lines of a stage's log.

        Raises:
            InvalidError: the container has not started, or is gone.
            ApiError: the log cannot be read.
        """
        metadata = pod["metadata"]
        query = {
            "container": CONTAINER,
            "follow": "true" if follow else "",
            "tailLines": "" if tail is None else str(tail),
        }
        call = Request("GET", PODS.path(metadata["namespace"], metadata["name"], "log"), query, accept=_TEXT)
        return self.calls.lines(call)

    def secret(self, namespace: str, name: str) -> Object:
        """A Secret."""
        return self.calls.request(Request("GET", _SECRETS.path(namespace, name)))

    def _items(self, path: str, query: dict[str, str]) -> Iterator[Object]:
        query = {"limit": str(PAGE), **query}
        while True:
            page = self.calls.request(Request("GET", path, query))
            yield from page.get("items") or ()
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query = query | {"continue": following}
