"""A real kube-apiserver with its etcd, on free ports, for tests; and a small client that hides nothing."""

import base64
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.kit.lab import unpack
from tests.kit.ports import free_port
from tests.kit.waiting import until

TOKEN = "tests-only"
USERS = {f"token-of-{name}": name for name in ("ada", "bob", "cleo")}
"""Tokens of people without any rights of their own."""
RUNS = "/apis/ippo.dev/v1alpha1/namespaces/{}/iterativepporuns"
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}


def find_assets(version: str = "") -> Path | None:
    """The folder with etcd and kube-apiserver: $KUBEBUILDER_ASSETS, or what a lab beside the repository unpacks.

    Args:
        version: such as 1.36, for a second control plane (`$KUBEBUILDER_ASSETS_1_36`); empty for the usual one.
    """
    variable = "KUBEBUILDER_ASSETS" + (f"_{version.replace('.', '_')}" if version else "")
    assets = os.environ.get(variable, "")
    folder = Path(assets) if assets else unpack("assets", *([version] if version else []))
    return folder if folder is not None and (folder / "kube-apiserver").exists() else None


@dataclass(frozen=True)
class Answer:
    """Of the API server."""

    code: int
    body: dict[str, Any]

    @property
    def message(self) -> str:
        """What a Status object says."""
        return str(self.body.get("message", ""))


class Api:
    """Plain requests to the API server, as a cluster administrator or as the user of a token."""

    def __init__(self, url: str, authority: Path, token: str = TOKEN) -> None:
        self.url = url
        self.token = token
        self._context = ssl.create_default_context(cafile=str(authority))
        # Connections stay: a handshake costs as much as the request.
        self._pool = urllib3.PoolManager(maxsize=8, retries=False, timeout=30, ssl_context=self._context)

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        kind: str = "application/json",
    ) -> Answer:
        """The answer to one request; errors of the server are answers too.

        Raises:
            ConnectionError: nobody answers.
        """
        headers = {"Authorization": f"Bearer {self.token}"} | ({} if body is None else {"Content-Type": kind})
        data = None if body is None else json.dumps(body).encode()
        try:
            reply = self._pool.request(method, self.url + path, body=data, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"{method} {path}: {error}") from error
        return Answer(reply.status, _json(reply.data))

    def create(self, path: str, body: Mapping[str, Any]) -> Answer:
        """POST."""
        return self.request("POST", path, body)

    def get(self, path: str) -> Answer:
        """GET."""
        return self.request("GET", path)

    def merge(self, path: str, body: Mapping[str, Any]) -> Answer:
        """A JSON merge patch."""
        return self.request("PATCH", path, body, "application/merge-patch+json")

    def apply(self, path: str, body: Mapping[str, Any], manager: str = "tests") -> Answer:
        """A server-side apply that takes over conflicting fields."""
        return self.request("PATCH", f"{path}?fieldManager={manager}&force=true", body, "application/apply-patch+yaml")

    def delete(self, path: str) -> Answer:
        """DELETE."""
        return self.request("DELETE", path)


def _json(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {"message": body.decode(errors="replace")}
    return parsed if isinstance(parsed, dict) else {"value": parsed}


class ControlPlane:
    """etcd and kube-apiserver, started in `folder`; RBAC and Pod Security are on, there are no controllers.

    Use as a context manager. What service accounts ask for is in `audit_log`, a JSON object per line.
    """

    def __init__(self, assets: Path, folder: Path) -> None:
        self._assets = assets
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        etcd, peer, secure = free_port(), free_port(), free_port()
        self._folder.mkdir(parents=True, exist_ok=True)
        certificates = self._folder / "certificates"
        key = self._folder / "service-accounts.key"
        key.write_bytes(_private_key())
        tokens = self._folder / "tokens.csv"
        users = "".join(f"{token},{user},{user}\n" for token, user in USERS.items())
        tokens.write_text(f'{TOKEN},admin,admin,"system:masters"\n{users}')
        policy = self._folder / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT))
        self.audit_log = self._folder / "audit.log"
        self._run(
            "etcd",
            *("--data-dir", str(self._folder / "etcd"), "--unsafe-no-fsync", "--log-level", "error"),
            *(
                "--listen-client-urls",
                f"http://127.0.0.1:{etcd}",
                "--advertise-client-urls",
                f"http://127.0.0.1:{etcd}",
            ),
            *(
                "--listen-peer-urls",
                f"http://127.0.0.1:{peer}",
                "--initial-advertise-peer-urls",
                f"http://127.0.0.1:{peer}",
            ),
            *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
        )
        self._run(
            "kube-apiserver",
            *(
                "--etcd-servers",
                f"http://127.0.0.1:{etcd}",
                "--bind-address",
                "127.0.0.1",
                "--secure-port",
                str(secure),
            ),
            *("--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"),
            *("--cert-dir", str(certificates), "--token-auth-file", str(tokens), "--authorization-mode", "RBAC"),
            *("--disable-admission-plugins", "ServiceAccount", "--service-cluster-ip-range", "10.96.0.0/16"),
            *("--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", str(key)),
            *("--service-account-signing-key-file", str(key)),
            *("--audit-policy-file", str(policy), "--audit-log-path", str(self.audit_log)),
        )
        self.url = f"https://127.0.0.1:{secure}"
        self._authority = certificates / "apiserver.crt"
        self._wait_until_ready()
        self.api = Api(self.url, self._authority)
        self.kubeconfig = self.kubeconfig_of(TOKEN, "kubeconfig")

    def _run(self, program: str, *arguments: str) -> None:
        with (self._folder / f"{program}.log").open("wb") as log:
            command = [str(self._assets / program), *arguments]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def _wait_until_ready(self, seconds: float = 90) -> None:
        try:
            until(self._is_ready, "the API server is ready", seconds, every=0.2)
        except TimeoutError as error:
            logs = [f"{path.name}: {path.read_text(errors='replace')[-600:]}" for path in self._folder.glob("*.log")]
            raise RuntimeError("\n".join([str(error), *logs])) from error

    def _is_ready(self) -> bool:
        if any(process.poll() is not None for process in self._processes):
            raise TimeoutError("etcd or kube-apiserver ended at once")
        try:
            return Api(self.url, self._authority).get("/readyz").code == 200
        except OSError:  # not listening yet, no certificate yet
            return False

    def user(self, token: str) -> Api:
        """Requests as whoever has this token."""
        return Api(self.url, self._authority, token)

    def kubeconfig_of(self, token: str, name: str) -> Path:
        """A kubeconfig with this token, in a file of that name in the control plane's folder."""
        path = self._folder / name
        path.write_text(json.dumps(self._kubeconfig(token)))
        return path

    def _kubeconfig(self, token: str) -> dict[str, Any]:
        authority = base64.b64encode(self._authority.read_bytes()).decode()
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "t", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "t", "user": {"token": token}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
            "current-context": "t",
        }

    def stop(self) -> None:
        """Ends both and removes their data; logs stay in the folder that pytest keeps."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self._folder / "etcd", ignore_errors=True)


def _private_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
