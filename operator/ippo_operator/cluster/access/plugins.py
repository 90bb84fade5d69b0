"""Credential plugins of a kubeconfig (`exec`): a program that prints a token or a client certificate.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

import base64
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from ippo_operator.cluster.access.files import KubeconfigError
from ippo_operator.cluster.access.kubeconfig import Login
from ippo_operator.cluster.access.parts import Plugin

TIMEOUT = 120.0
"""Seconds; a plugin may ask the user to log in with a browser."""


@dataclass(frozen=True, repr=False)
class Credentials:
    """What is shown to the API server, as it is now. Without repr: these are secrets."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires: datetime | None = None


class _Status(BaseModel):
    """An ExecCredential's status."""

    token: str = ""
    certificate: str = Field("", alias="clientCertificateData")
    key: str = Field("", alias="clientKeyData")
    expires: datetime | None = Field(None, alias="expirationTimestamp")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _complete(self) -> "_Status":
        if bool(self.certificate) != bool(self.key):
            raise ValueError("it printed a certificate or a key without the other")
        if not self.token and not self.certificate:
            raise ValueError("it printed no token and no certificate")
        return self


class _ExecCredential(BaseModel):
    """An ExecCredential."""

    api_version: str = Field("", alias="apiVersion")
    kind: str = ""
    status: _Status


def credentials(login: Login) -> Credentials:
    """The user's credentials as they are now; a plugin is asked where there is neither a token nor a password.

    Raises:
        KubeconfigError: the plugin is missing, failed, or printed something else; or the token file cannot be read.
    """
    user = login.user
    if user.token_file is not None:
        return Credentials(_token_in(login), user.certificate, user.key)
    if user.plugin is None or user.token or user.basic:
        return Credentials(user.token, user.certificate, user.key)
    status = _parsed(_output(login, user.plugin), user.plugin)
    expires = status.expires
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    return Credentials(
        token=status.token.strip(),
        certificate=status.certificate.encode() or user.certificate,
        key=status.key.encode() or user.key,
        expires=expires,
    )


def _token_in(login: Login) -> str:
    path = login.user.token_file
    assert path is not None
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if login.user.token:
            return login.user.token
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise KubeconfigError(f"cannot read the token file {path}: {reason}") from None


def _output(login: Login, plugin: Plugin) -> bytes:
    interactive = _is_interactive(plugin)
    environment = os.environ | {variable.name: variable.value for variable in plugin.env}
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(_info(login, plugin, interactive))
    try:
        done = subprocess.run(
            [plugin.command, *plugin.args],
            env=environment,
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        hint = " ".join(plugin.install_hint.split())
        message = f"the kubeconfig's credential plugin {plugin.command} is not installed. {hint}"
        raise KubeconfigError(message.strip()) from None
    except subprocess.TimeoutExpired:
        message = f"the credential plugin {plugin.command} did not end within {TIMEOUT:.0f} seconds"
        raise KubeconfigError(message) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its command or environment cannot be passed on"
        raise KubeconfigError(f"the credential plugin {plugin.command} cannot be started: {reason}") from None
    if done.returncode:
        message = f"the credential plugin {plugin.command} ended with exit code {done.returncode}; log in again"
        raise KubeconfigError(message)
    return done.stdout


def _is_interactive(plugin: Plugin) -> bool:
    """Whether the plugin may ask the user."""
    terminal = False
    with suppress(ValueError, AttributeError, OSError):  # standard input is closed, or no file
        terminal = os.isatty(sys.stdin.fileno())
    if plugin.interactive_mode == "Always" and not terminal:
        raise KubeconfigError(f"the credential plugin {plugin.command} needs a terminal to ask you; log in first")
    return terminal and plugin.interactive_mode != "Never"


def _info(login: Login, plugin: Plugin, interactive: bool) -> dict[str, Any]:
    """An ExecCredential that says what the plugin is asked for."""
    spec: dict[str, Any] = {"interactive": interactive}
    if plugin.provide_cluster_info:
        cluster = {
            "server": login.server,
            "tls-server-name": login.server_name,
            "insecure-skip-tls-verify": login.insecure,
            "certificate-authority-data": base64.b64encode(login.ca).decode(),
            "proxy-url": login.proxy_url,
            "disable-compression": not login.compressed,
            "config": login.plugin_data,
        }
        spec["cluster"] = {name: value for name, value in cluster.items() if value not in ("", False, None)}
    return {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}


def _parsed(output: bytes, plugin: Plugin) -> _Status:
    try:
        answer = _ExecCredential.model_validate_json(output)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        # What it printed may hold secrets; only a rule of our own is repeated.
        own = first["type"] == "value_error"
        reason = first["msg"].removeprefix("Value error, ") if own else "it printed no token and no certificate"
        raise KubeconfigError(f"the credential plugin {plugin.command}: {reason}") from None
    if answer.kind != "ExecCredential" or answer.api_version != plugin.api_version:
        message = f"the credential plugin {plugin.command} answers as {answer.api_version or 'nothing'}"
        raise KubeconfigError(f"{message}; the kubeconfig asks for {plugin.api_version}")
    return answer.status
