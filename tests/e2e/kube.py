"""kubectl for tests, and waiting for what it shows."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from .place import Place

Object = dict[str, Any]
MINUTES = 60.0


class Kube:
    """A cluster as an administrator sees it.

    Args:
        place: the cluster.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.environment = {**os.environ, "KUBECONFIG": str(place.kubeconfig), "PATH": place.path}

    def call(self, *command: str, text: str | None = None, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """A command with this cluster's kubeconfig; its exit code is for the caller to judge."""
        return subprocess.run(
            command, input=text, capture_output=True, text=True, env=self.environment, timeout=seconds
        )

    def script(self, code: str, out: IO[str], seconds: float) -> int:
        """Runs bash; its exit code. What it left in the background is ended."""
        shell = subprocess.Popen(
            ["bash", "-c", code], stdout=out, stderr=out, env=self.environment, start_new_session=True
        )
        try:
            return shell.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """What kubectl prints; fails the test if it fails."""
        done = self.call("kubectl", *arguments, text=text)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *objects: Object) -> None:
        """`kubectl apply --server-side`."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=json.dumps(listed))

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None if it is not there."""
        text = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """An object that is there."""
        item = self.find(kind, namespace, name)
        assert item is not None, f"there is no {kind} {name} in {namespace}"
        return item

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """All objects of a kind."""
        selection = ["-l", selector] if selector else []
        items: list[Object] = json.loads(self.kubectl("get", kind, "-n", namespace, "-o", "json", *selection))["items"]
        return items

    def merge(self, kind: str, namespace: str, name: str, patch: Object) -> None:
        """A JSON merge patch."""
        self.kubectl("patch", kind, name, "-n", namespace, "--type", "merge", "-p", json.dumps(patch))

    def namespace(self, name: str, **labels: str) -> None:
        """A namespace; labels with `_` for `-` are Pod Security's."""
        security = {f"pod-security.kubernetes.io/{key.replace('_', '-')}": value for key, value in labels.items()}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": security}})

    def remove(self, namespace: str) -> None:
        """Deletes a namespace with all that is in it, and waits."""
        self.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=180s")


def until(holds: Callable[[], Any], what: str, seconds: float = 5 * MINUTES, every: float = 1.0) -> Any:
    """What `holds` returns once that is true; TimeoutError otherwise."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s: {what}")
        pause.wait(every)
    return value


def condition(run: Object, kind: str) -> tuple[str, str, str]:
    """Status, reason and message of a condition; empty without it."""
    conditions: Iterable[Object] = run.get("status", {}).get("conditions", [])
    return next(((c["status"], c["reason"], c["message"]) for c in conditions if c["type"] == kind), ("", "", ""))


def story(kube: Kube, namespace: str, name: str, folder: Path | None = None) -> str:
    """What is to be read when a run did not do what it should."""
    parts = [kube.call("kubectl", "get", "ippo", name, "-n", namespace, "-o", "jsonpath={.status}").stdout]
    parts.append(kube.call("kubectl", "get", "jobs,pods,deployments", "-n", namespace, "-o", "wide").stdout)
    parts.append(kube.call("kubectl", "events", "-n", namespace).stdout[-4000:])
    names = ("-o", "name", "--field-selector", "status.phase=Failed")
    for pod in kube.call("kubectl", "get", "pods", "-n", namespace, *names).stdout.split():
        parts.append(kube.call("kubectl", "logs", "-n", namespace, pod, "--tail", "60").stdout)
    return "\n".join(parts)
