"""What Flux and Argo CD are given, and what they say of it; here and in real pods."""

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.kit.waiting import until

EXAMPLES = Path(__file__).parents[3] / "examples" / "gitops"


def example(path: str, whole: bool = False) -> list[dict[str, Any]]:
    """The documents of an example; the whole of it has the fields too that are written as comments."""
    text = (EXAMPLES / path).read_text()
    return list(yaml.safe_load_all(re.sub(r"(?m)^( *)#(?=[a-zA-Z-]|  )", r"\1", text) if whole else text))


class Objects(Protocol):
    """A cluster's objects, however they are reached."""

    def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """An object; None if it is not there."""

    def merge(self, kind: str, namespace: str, name: str, patch: dict[str, Any]) -> None:
        """A JSON merge patch."""


class _Told:
    """An object of a tool, in the tool's namespace.

    Args:
        objects: of the cluster.
        name: of the object.
        story: what else is to be read when a wait was in vain.
        every: seconds between two looks.
    """

    kind = ""
    system = ""

    def __init__(
        self, objects: Objects, name: str, story: Callable[[], object] = lambda: "", every: float = 0.05
    ) -> None:
        self._objects = objects
        self.name = name
        self._story = story
        self._every = every

    @property
    def _now(self) -> dict[str, Any]:
        return self._objects.find(self.kind, self.system, self.name) or {}

    @property
    def status(self) -> dict[str, Any]:
        """What the tool says; empty if it has said nothing yet."""
        status: dict[str, Any] = self._now.get("status", {})
        return status

    def _annotate(self, key: str, value: str) -> None:
        self._objects.merge(self.kind, self.system, self.name, {"metadata": {"annotations": {key: value}}})

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
        """Returns once it holds; AssertionError, with what the tool says, otherwise."""
        try:
            until(holds, what, seconds, self._every)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.status}, {self._story()}") from None


class Kustomization(_Told):
    """Of Flux."""

    kind = "Kustomization"
    system = "flux-system"

    def ready(self) -> dict[str, Any]:
        """The condition Ready."""
        conditions = (c for c in self.status.get("conditions", ()) if c["type"] == "Ready")
        return next(conditions, {"status": "", "message": ""})

    def applied(self) -> str:
        """The commit that was applied last and found healthy."""
        return str(self.status.get("lastAppliedRevision", "")).rpartition(":")[2]

    def reconcile(self) -> None:
        """Flux applies and looks again, as `flux reconcile` has it."""
        self._annotate("reconcile.fluxcd.io/requestedAt", uuid.uuid4().hex)

    def wait_ready(self, commit: str, seconds: float = 120) -> None:
        """Until Flux says that this commit is applied and everything in it is healthy."""
        self.until(lambda: self.applied() == commit and self.ready()["status"] == "True", f"{commit} is Ready", seconds)

    def wait_told(self, words: str, seconds: float = 120) -> None:
        """Until Flux says this in its condition Ready, which is False."""
        lines = set()

        def holds() -> bool:
            ready = self.ready()
            lines.add((ready["status"], ready["message"]))
            return ready["status"] == "False" and words in ready["message"]

        try:
            self.until(holds, words, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said {lines}") from None


class Application(_Told):
    """Of Argo CD."""

    kind = "Application"
    system = "argocd"

    def refresh(self) -> None:
        """Argo CD compares Git with the cluster now."""
        self._annotate("argocd.argoproj.io/refresh", "normal")

    def sync(self) -> None:
        """A sync by hand, as the button does it; returns when it is over."""
        before = self.status.get("operationState", {}).get("finishedAt")
        options = self._now["spec"]["syncPolicy"]["syncOptions"]
        sync = {"revision": "main", "prune": True, "syncOptions": options}
        operation = {"initiatedBy": {"username": "tests"}, "sync": sync}
        self.until(lambda: self.idle, "no other sync is under way")
        self._objects.merge(self.kind, self.system, self.name, {"operation": operation})
        self.until(lambda: self.idle and self.status["operationState"].get("finishedAt") != before, "the sync is over")
        assert self.status["operationState"]["phase"] == "Succeeded"

    @property
    def idle(self) -> bool:
        """No sync is under way."""
        now = self._now
        state = now.get("status", {}).get("operationState", {})
        return "operation" not in now and state.get("phase") != "Running"

    @property
    def health(self) -> str:
        """Of all that is in it, in one word."""
        return str(self.status.get("health", {}).get("status"))

    @property
    def synced(self) -> tuple[str, str]:
        """Whether the cluster is as Git says, and which commit that was found for."""
        sync = self.status.get("sync", {})
        return str(sync.get("status")), str(sync.get("revision"))

    def wait(self, health: str, commit: str = "", seconds: float = 120) -> None:
        """Until Argo CD says so, for a commit that is in the cluster."""

        def holds() -> bool:
            return self.health == health and (not commit or self.synced == ("Synced", commit))

        self.until(holds, f"{health} {commit}", seconds)
