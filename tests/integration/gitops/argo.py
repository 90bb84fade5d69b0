"""Argo CD's API server, as its user interface uses it: resource actions and the tree with everybody's health."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.kit.ports import free_port
from tests.kit.waiting import until

from .cluster import Lab


class ArgoServer:
    """`argocd-server` beside the lab's Argo CD. Use as a context manager.

    Args:
        lab: where Argo CD runs.
        folder: for its log and files.
    """

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab = lab
        self._folder = folder
        self._port = free_port()
        self._log = folder / "argocd-server.log"

    def __enter__(self) -> Self:
        program = self._folder / "argocd-server"
        program.symlink_to(self._lab.binaries() / "argocd")  # it looks at its own name
        command = [str(program), "--insecure", "--disable-auth", "--kubeconfig", str(self._lab.kubeconfig)]
        command += ["--namespace", "argocd", "--redis", "127.0.0.1:7090", "--repo-server", "127.0.0.1:7091"]
        command += ["--repo-server-plaintext", "--address", "127.0.0.1", "--port", str(self._port)]
        command += ["--metrics-address", "127.0.0.1", "--metrics-port", str(free_port())]
        files = {name: str(self._folder) for name in ("ARGOCD_TLS_DATA_PATH", "ARGOCD_SSH_DATA_PATH", "TMPDIR")}
        environment = {**os.environ, **files, "ARGOCD_FAKE_IN_CLUSTER": "true"}
        environment["KUBECONFIG"] = str(self._lab.kubeconfig)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            until(lambda: self._is_up(), "argocd-server answers", 60)
        except TimeoutError as error:
            self._stop()
            raise AssertionError(f"{error}\n{self._log.read_text()[-3000:]}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        try:
            return "Version" in self._ask("GET", "/api/version")
        except OSError:
            return False

    def actions(self, application: str, namespace: str) -> list[str]:
        """The actions that apply to the run `small`, in alphabetical order."""
        actions = self._ask("GET", f"/api/v1/applications/{application}/resource/actions?{_query(namespace)}")
        return sorted(action["name"] for action in actions.get("actions", ()) if not action.get("disabled"))

    def act(self, application: str, namespace: str, action: str) -> None:
        """Runs an action on the run `small`."""
        body = {**_run(namespace), "name": application, "action": action}
        self._ask("POST", f"/api/v1/applications/{application}/resource/actions/v2", body)

    def health(self, application: str) -> dict[str, str]:
        """Of the run `small`, with its message."""
        nodes = self._ask("GET", f"/api/v1/applications/{application}/resource-tree").get("nodes", ())
        return next((node.get("health", {}) for node in nodes if node["kind"] == "IterativePPORun"), {})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", method=method)
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode() if body is not None else None
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content: dict[str, Any] = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None
        return content


def _run(namespace: str) -> dict[str, str]:
    return {
        "namespace": namespace,
        "resourceName": "small",
        "group": "ippo.dev",
        "version": "v1alpha1",
        "kind": "IterativePPORun",
    }


def _query(namespace: str) -> str:
    return "&".join(f"{key}={value}" for key, value in _run(namespace).items())
