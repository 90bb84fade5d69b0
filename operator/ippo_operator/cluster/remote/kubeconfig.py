"""Finds cluster and user as kubectl does: --kubeconfig, $KUBECONFIG (several files), ~/.kube/config, the pod."""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FILES = {
    "clusters": ("certificate-authority",),
    "users": ("client-certificate", "client-key", "tokenFile"),
}


class KubeconfigError(Exception):
    """No cluster can be found; the message says what was looked for and what to do."""


@dataclass(frozen=True, repr=False)
class User:
    """Credentials of a user; at most one kind of them is set, as in a kubeconfig. Without repr: they are secrets."""

    token: str | None = None
    token_file: Path | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    basic: tuple[str, str] | None = None
    plugin: Mapping[str, Any] | None = None
    plugin_folder: Path | None = None
    impersonate: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Login:
    """Where the API server is, and who asks."""

    server: str
    namespace: str = "default"
    context: str = ""
    ca: bytes | None = None
    """PEM; None for the system's authorities."""
    insecure: bool = False
    server_name: str | None = None
    """The name in the server's certificate, where it is not the URL's."""
    proxy: str | None = None
    user: User = field(default_factory=User)


def load(path: str | None = None, context: str | None = None, namespace: str | None = None) -> Login:
    """The login that kubectl would use.

    Args:
        path: of the one kubeconfig to read; by default $KUBECONFIG or ~/.kube/config, else the pod's service account.
        context: its name; by default the current one.
        namespace: instead of the context's.

    Raises:
        KubeconfigError: nothing usable is there.
    """
    places = _places(path)
    found = [place for place in places if place.exists()]
    if path is not None and not found:
        raise KubeconfigError(f"--kubeconfig {path}: no such file")
    if not found:
        login = _in_cluster() if context is None else None
        if login is None:
            where = ":".join(map(str, places))
            raise KubeconfigError(
                f"no cluster: there is no {where}; set KUBECONFIG or give --kubeconfig. "
                "A run on this machine is named by its folder: ippo status ./DIR"
            )
    else:
        login = _login(_merged(found), context, ":".join(map(str, found)))
    return replace(login, namespace=namespace) if namespace else login


def _places(path: str | None) -> list[Path]:
    if path is not None:
        return [Path(path).expanduser()]
    given = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return given or [Path.home() / ".kube" / "config"]


def _merged(files: list[Path]) -> dict[str, Any]:
    """One kubeconfig of several: the first file that names something wins, and paths are relative to their file."""
    merged: dict[str, Any] = {"clusters": {}, "users": {}, "contexts": {}, "current-context": ""}
    for file in files:
        document = _read(file)
        merged["current-context"] = merged["current-context"] or document.get("current-context") or ""
        for section in ("clusters", "users", "contexts"):
            for entry in document.get(section) or ():
                if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                    raise KubeconfigError(f"{file}: an entry of {section} has no name")
                value = dict(entry.get(section[:-1]) or {})
                for key in _FILES.get(section, ()):
                    if value.get(key):
                        value[key] = str(file.resolve().parent / str(value[key]))
                merged[section].setdefault(entry["name"], value | {"_folder": file.resolve().parent})
    return merged


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.load(file.read_text(), Loader=_LOADER)  # noqa: S506 a safe loader, in C where there is one
    except OSError as error:
        raise KubeconfigError(f"cannot read the kubeconfig {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise KubeconfigError(f"the kubeconfig {file} is not YAML") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise KubeconfigError(f"{file} is not a kubeconfig")
    return document


def _login(config: dict[str, Any], context: str | None, where: str) -> Login:
    name = context or config["current-context"]
    if not name:
        raise KubeconfigError(f"{where} has no current context; choose with --context: {_names(config['contexts'])}")
    chosen = config["contexts"].get(name)
    if chosen is None:
        raise KubeconfigError(f"{where} has no context {name}; there are: {_names(config['contexts'])}")
    cluster = config["clusters"].get(chosen.get("cluster"))
    if cluster is None or not cluster.get("server"):
        raise KubeconfigError(f"context {name} of {where} names no cluster with a server")
    user = config["users"].get(chosen.get("user"), {}) if chosen.get("user") else {}
    return Login(
        server=str(cluster["server"]).rstrip("/"),
        namespace=str(chosen.get("namespace") or "default"),
        context=name,
        ca=_bytes(cluster, "certificate-authority", where),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        server_name=cluster.get("tls-server-name"),
        proxy=cluster.get("proxy-url"),
        user=_user(user, where),
    )


def _user(user: dict[str, Any], where: str) -> User:
    provider = user.get("auth-provider") or {}
    token = user.get("token") or (provider.get("config") or {}).get("id-token")
    if provider and not token:
        raise KubeconfigError(
            f"{where}: the auth-provider {provider.get('name')} is not supported; use its exec plugin instead"
        )
    basic = (str(user["username"]), str(user.get("password", ""))) if user.get("username") else None
    impersonate = {"Impersonate-User": [user["as"]]} if user.get("as") else {}
    if user.get("as-groups"):
        impersonate["Impersonate-Group"] = list(user["as-groups"])
    return User(
        token=token,
        token_file=Path(user["tokenFile"]) if user.get("tokenFile") else None,
        certificate=_bytes(user, "client-certificate", where),
        key=_bytes(user, "client-key", where),
        basic=basic,
        plugin=user.get("exec"),
        plugin_folder=user.get("_folder"),
        impersonate=impersonate,
    )


def _bytes(section: dict[str, Any], key: str, where: str) -> bytes | None:
    """What `key`-data holds, or the file that `key` names."""
    data, path = section.get(f"{key}-data"), section.get(key)
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise KubeconfigError(f"{where}: {key}-data is not base64") from None
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise KubeconfigError(f"{where}: cannot read {key} {path}: {error.strerror}") from None


def _in_cluster() -> Login | None:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = SERVICE_ACCOUNT / "token"
    if not host or not token.is_file():
        return None
    namespace, ca = SERVICE_ACCOUNT / "namespace", SERVICE_ACCOUNT / "ca.crt"
    return Login(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace.read_text().strip() if namespace.is_file() else "default",
        context="in-cluster",
        ca=ca.read_bytes() if ca.is_file() else None,
        user=User(token_file=token),
    )


def _names(section: Mapping[str, Any]) -> str:
    return ", ".join(sorted(section)) or "none"
