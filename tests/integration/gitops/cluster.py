"""A lab of its own for these tests: a real control plane with its controllers, simulated nodes, Flux, Argo CD, Git."""

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any, Self

import yaml
from ippo_operator.api.crd import custom_resource_definition

from tests.kit.control_plane import RUNS, Answer, Api
from tests.kit.waiting import until

NEEDED = "needs a lab script (IPPO_LAB, or ../shared/lab/lab beside the repository) that brings Flux and Argo CD up"
_KWOK = Path(__file__).parents[1] / "scale" / "kwok.yaml"
"""Starts pods and lets them go; how a stage's pod ends, with the right result, is up to kubelet.py."""
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_PATHS = {
    "Application": "/apis/argoproj.io/v1alpha1",
    "ConfigMap": "/api/v1",
    "Deployment": "/apis/apps/v1",
    "GitRepository": "/apis/source.toolkit.fluxcd.io/v1",
    "IterativePPORun": "/apis/ippo.dev/v1alpha1",
    "Kustomization": "/apis/kustomize.toolkit.fluxcd.io/v1",
}
_PLURALS = {"GitRepository": "gitrepositories"}


class Lab:
    """One lab per machine: others wait for the lock. Use as a context manager.

    Args:
        script: starts and stops it.
        repositories: the folder of the bare Git repositories that Flux and Argo CD can read.
    """

    url = "http://127.0.0.1:7080"

    def __init__(self, script: Path, repositories: Path) -> None:
        self._script = script
        self.repositories = repositories
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        variable = os.environ.get("IPPO_LAB_LOCK")
        path = Path(variable) if variable else Path(tempfile.gettempdir()) / f"ippo-lab-{os.getuid()}.lock"
        self._lock = path.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if "running" in self._call("status"):
            raise RuntimeError(f"a lab is up already; if nobody needs it: {self._script} down")
        try:
            self.kubeconfig = Path(self._call("up", "--no-node", "--kwok", "1").splitlines()[-1])
            self.api = _api(self.kubeconfig)
            self._prepare()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """`lab down`."""
        self._call("down")
        if self._lock is not None:
            self._lock.close()

    def start(self, tool: str) -> None:
        """Flux or Argo CD, and the Git server."""
        self._call(tool, str(self.repositories))

    def binaries(self) -> Path:
        """The folder of the lab's programs."""
        return Path(self._call("bin").strip())

    def _call(self, *arguments: str) -> str:
        # The Lab's processes outlive the script; pipes would wait for them too.
        with tempfile.TemporaryFile("w+") as out:
            environment = {**os.environ, "KWOK_CONFIG": str(_KWOK)}
            command = [str(self._script), *arguments]
            done = subprocess.run(command, stdout=out, stderr=out, env=environment, timeout=300)
            out.seek(0)
            text = out.read()
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {text.strip()[-2000:]}")
        return text

    def _prepare(self) -> None:
        answer = self.api.create(_CRDS, custom_resource_definition())
        assert answer.code == 201, answer.message
        until(lambda: self.api.get(RUNS.format("default")).code == 200, "the CRD is served")

    # Objects

    def apply(self, *documents: dict[str, Any]) -> None:
        """Server-side apply."""
        for document in documents:
            metadata = document["metadata"]
            path = self.path(document["kind"], metadata["namespace"], metadata["name"])
            answer = self.api.apply(path, document)
            assert answer.code in {200, 201}, answer.message

    def path(self, kind: str, namespace: str, name: str) -> str:
        """Of an object."""
        plural = _PLURALS.get(kind, f"{kind.lower()}s")
        return f"{_PATHS[kind]}/namespaces/{namespace}/{plural}/{name}"

    def get(self, kind: str, namespace: str, name: str) -> Answer:
        """An object."""
        return self.api.get(self.path(kind, namespace, name))

    def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """An object; None if it is not there."""
        answer = self.get(kind, namespace, name)
        return answer.body if answer.code == 200 else None

    def merge(self, kind: str, namespace: str, name: str, patch: dict[str, Any]) -> None:
        """A JSON merge patch."""
        answer = self.api.merge(self.path(kind, namespace, name), patch)
        assert answer.code == 200, answer.message

    def namespace(self, name: str) -> None:
        """A new namespace."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        assert self.api.create("/api/v1/namespaces", body).code == 201


class _WithCertificate(Api):
    """As the user of a client certificate."""

    def __init__(self, url: str, authority: Path, certificate: Path, key: Path) -> None:
        super().__init__(url, authority, token="")
        self._context.load_cert_chain(certificate, key)


def _api(kubeconfig: Path) -> Api:
    document = yaml.safe_load(kubeconfig.read_text())
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    files = (cluster["certificate-authority"], user["client-certificate"], user["client-key"])
    return _WithCertificate(cluster["server"], *map(Path, files))
