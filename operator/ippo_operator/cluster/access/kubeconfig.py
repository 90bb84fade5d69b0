"""Finds cluster and user as kubectl does: flags, --kubeconfig, $KUBECONFIG (several files), ~/.kube/config, the pod."""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import ValidationError

from ippo_operator.cluster.access import files
from ippo_operator.cluster.access.files import KubeconfigError, NoClusterError
from ippo_operator.cluster.access.parts import ClusterPart, ContextPart, Plugin, UserPart

_HEADER_VALUE = re.compile(r"[^\x00-\x1f\x7f]*")
_HEADER_NAME = "!#$&'*+-.^_`|~"
_Kind = TypeVar("_Kind", ClusterPart, UserPart, ContextPart)


@dataclass(frozen=True)
class Flags:
    """kubectl's flags that say where and who; each counts more than the kubeconfig."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    cluster: str | None = None
    user: str | None = None
    server: str | None = None
    certificate_authority: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    token: str | None = field(default=None, repr=False)
    as_user: str | None = None
    as_uid: str | None = None
    as_group: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: object) -> "Flags":
        """From a parsed command line."""
        values: dict[str, Any] = {one.name: getattr(arguments, one.name, None) for one in fields(cls)}
        flags = {name: value for name, value in values.items() if value is not None}
        return cls(**flags | {"as_group": tuple(flags.get("as_group", ()))})


@dataclass(frozen=True, repr=False)
class User:
    """Who asks. Without repr: these are secrets."""

    token: str = ""
    token_file: Path | None = None
    """Counts more than `token`, and is read again and again."""
    certificate: bytes = b""
    key: bytes = b""
    basic: tuple[str, str] | None = None
    plugin: Plugin | None = None
    """Asked where there is neither a token nor a password."""
    impersonation: tuple[tuple[str, str], ...] = ()
    """Headers."""


@dataclass(frozen=True)
class Login:
    """Where the API server is, and who asks."""

    server: str
    """An http(s) URL without a / at its end."""
    namespace: str = "default"
    context: str = ""
    ca: bytes = b""
    """PEM; empty for the system's authorities."""
    insecure: bool = False
    server_name: str = ""
    """The name in the server's certificate, where it is not the URL's."""
    proxy_url: str = field(default="", repr=False)
    """Instead of the environment's proxy."""
    compressed: bool = True
    plugin_data: Any = field(default=None, repr=False)
    user: User = field(default_factory=User)


def load(flags: Flags | None = None) -> Login:
    """The login that kubectl would use.

    Raises:
        KubeconfigError: nothing usable is there.
    """
    flags = flags or Flags()
    places = files.places(flags.kubeconfig)
    present = [place for place in places if place.exists()]
    if flags.kubeconfig is not None and not present:
        raise KubeconfigError(f"--kubeconfig {flags.kubeconfig}: no such file")
    config = files.merged(present)
    where = os.pathsep.join(map(str, present or places)) or "$KUBECONFIG"
    if not config["contexts"] and not config["clusters"] and flags.context is None:
        config = files.in_cluster() or config
    if not present and not config["clusters"] and not flags.server:
        raise NoClusterError(f"no cluster: there is no {where}, and no service account of a pod; set KUBECONFIG")
    return _login(config, flags, where)


def names(section: str, flags: Flags) -> list[str]:
    """Of the `contexts`, `clusters` or `users` there are. Raises KubeconfigError for a file that is no kubeconfig."""
    present = [place for place in files.places(flags.kubeconfig) if place.exists()]
    return sorted(files.merged(present)[section])


def _login(config: dict[str, Any], flags: Flags, where: str) -> Login:
    context_name = flags.context or str(config["current-context"])
    context = _context(config, context_name, flags, where)
    cluster_name, user_name = flags.cluster or context.cluster, flags.user or context.user
    for section, name in (("clusters", flags.cluster), ("users", flags.user)):
        if name and name not in config[section]:
            raise KubeconfigError(f"{where} has no {section[:-1]} {name}; there are: {_names(config[section])}")
    cluster_value = _overridden(config["clusters"].get(cluster_name, {}), _cluster_flags(flags))
    user_value = _overridden(config["users"].get(user_name, {}), _user_flags(flags))
    cluster = _part(ClusterPart, cluster_value, f"{where}: cluster {cluster_name}")
    part = _part(UserPart, user_value, f"{where}: user {user_name}")
    if not cluster.server:
        raise KubeconfigError(f"context {context_name} of {where} names no cluster with a server")
    user, server = _user(part, where), _server(cluster.server)
    return Login(
        server=server,
        namespace=flags.namespace or context.namespace or "default",
        context=context_name,
        ca=_bytes(cluster, "certificate_authority", where),
        insecure=cluster.insecure_skip_tls_verify,
        server_name=cluster.tls_server_name,
        proxy_url=cluster.proxy_url,
        compressed=not cluster.disable_compression,
        plugin_data=cluster.plugin_data,
        user=user if _is_private(server) else User(impersonation=user.impersonation),
    )


def _context(config: dict[str, Any], name: str, flags: Flags, where: str) -> ContextPart:
    value = config["contexts"].get(name)
    if value is None and name:
        raise KubeconfigError(f"{where} has no context {name}; there are: {_names(config['contexts'])}")
    if value is None and not flags.server and not flags.cluster:
        raise KubeconfigError(f"{where} has no current context; choose with --context: {_names(config['contexts'])}")
    return _part(ContextPart, value or {}, f"{where}: context {name}")


_TRUST = ("certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify")
_EXCLUDED = {
    "certificate-authority": _TRUST,
    "insecure-skip-tls-verify": _TRUST,
    "client-certificate": ("client-certificate-data",),
    "client-key": ("client-key-data",),
    "token": ("tokenFile",),
}
"""What a flag takes the place of besides the field that it sets."""


def _overridden(value: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """A part of the kubeconfig with the flags that are set."""
    fields = {name: flag for name, flag in flags.items() if flag}
    excluded = {other for name in fields for other in _EXCLUDED.get(name, ())}
    return {name: item for name, item in value.items() if name not in excluded} | fields


def _cluster_flags(flags: Flags) -> dict[str, Any]:
    return {
        "server": flags.server,
        "tls-server-name": flags.tls_server_name,
        "certificate-authority": _here(flags.certificate_authority),
        "insecure-skip-tls-verify": flags.insecure_skip_tls_verify,
    }


def _user_flags(flags: Flags) -> dict[str, Any]:
    return {
        "token": flags.token,
        "client-certificate": _here(flags.client_certificate),
        "client-key": _here(flags.client_key),
        "as": flags.as_user,
        "as-uid": flags.as_uid,
        "as-groups": list(flags.as_group),
    }


def _here(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _part(kind: type[_Kind], value: dict[str, Any], where: str) -> _Kind:
    """Checked. What was given is not repeated in the message: it may be a secret."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        field_path = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise KubeconfigError(f"{where}: {f'{field_path}: ' if field_path else ''}{message}") from None


def _user(part: UserPart, where: str) -> User:
    token = part.token.strip()
    if part.auth_provider is not None and not token:
        # kubectl has the provider oidc; its token is used as long as it is good, and not renewed.
        name = part.auth_provider.name
        token = part.auth_provider.config.get("id-token", "").strip() if name == "oidc" else ""
        if not token:
            raise KubeconfigError(f"{where}: the auth-provider {name} is not supported; use its exec plugin instead")
    basic = (part.username, part.password) if part.username or part.password else None
    pairs = [("Impersonate-User", part.as_), ("Impersonate-Uid", part.as_uid)]
    pairs += [("Impersonate-Group", group) for group in part.as_groups]
    for key, values in part.as_user_extra.items():
        pairs += [(f"Impersonate-Extra-{quote(key.lower(), safe=_HEADER_NAME)}", value) for value in values]
    for name, value in (("token", token), *pairs):
        if not _HEADER_VALUE.fullmatch(value):
            raise KubeconfigError(f"{where}: {name} holds a line break or control character")
    return User(
        token=token,
        token_file=Path(part.token_file) if part.token_file else None,
        certificate=_bytes(part, "client_certificate", where),
        key=_bytes(part, "client_key", where),
        basic=basic,
        plugin=part.exec_,
        impersonation=tuple((name, value) for name, value in pairs if value),
    )


def _bytes(part: ClusterPart | UserPart, name: str, where: str) -> bytes:
    """What the field's `-data` holds, or the file that it names."""
    key, data, path = name.replace("_", "-"), getattr(part, f"{name}_data"), getattr(part, name)
    if data:
        try:
            return base64.b64decode(data.replace("\n", "").replace("\r", ""), validate=True)
        except (binascii.Error, ValueError):
            raise KubeconfigError(f"{where}: {key}-data is not base64") from None
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise KubeconfigError(f"{where}: cannot read {key} {path}: {error.strerror}") from None


def _server(text: str) -> str:
    """The URL. Without a scheme it is http, as for kubectl."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number
        usable = False
    if not usable:
        raise KubeconfigError(f"the kubeconfig's server {text} is not an http(s) URL")
    if "@" in parts.netloc:
        raise KubeconfigError("the kubeconfig's server holds a user; put it into username and password")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _is_private(server: str) -> bool:
    """Whether credentials may be sent: kubectl sends none over plain http; here they go to this machine at most."""
    parts = urlsplit(server)
    host = str(parts.hostname)
    with suppress(ValueError):
        return parts.scheme == "https" or ip_address(host).is_loopback
    return host == "localhost"


def _names(section: Mapping[str, Any]) -> str:
    return ", ".join(sorted(section)) or "none"
