"""Credential plugins of a kubeconfig (`exec`): a program that prints a token or a client certificate."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ippo_operator.cluster.remote.kubeconfig import KubeconfigError, Login, User

TIMEOUT = 120.0
"""Seconds; a plugin may ask the user to log in with a browser."""


def run(login: Login) -> User:
    """The user's credentials as the plugin gives them now.

    Raises:
        KubeconfigError: the plugin is missing, failed, or printed something else.
    """
    plugin = login.user.plugin
    if plugin is None:
        return login.user
    command = str(plugin.get("command") or "")
    if os.sep in command and login.user.plugin_folder is not None:
        command = str(Path(login.user.plugin_folder) / command)
    environment = os.environ | {str(item["name"]): str(item["value"]) for item in plugin.get("env") or ()}
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(_info(login, plugin))
    try:
        done = subprocess.run(
            [command, *map(str, plugin.get("args") or ())],
            env=environment,
            stdout=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        hint = " ".join(str(plugin.get("installHint") or "").split())
        raise KubeconfigError(
            f"the kubeconfig's credential plugin {command} is not installed. {hint}".strip()
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KubeconfigError(f"the credential plugin {command} failed: {type(error).__name__}") from None
    if done.returncode:
        raise KubeconfigError(f"the credential plugin {command} ended with exit code {done.returncode}; log in again")
    return _with(login.user, done.stdout, command)


def _info(login: Login, plugin: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"interactive": sys.stdin.isatty() and plugin.get("interactiveMode") != "Never"}
    if plugin.get("provideClusterInfo"):
        spec["cluster"] = {"server": login.server, "insecure-skip-tls-verify": login.insecure}
    return {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": spec}


def _with(user: User, output: bytes, command: str) -> User:
    try:
        status = json.loads(output)["status"]
        token = status.get("token")
        certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
    except (ValueError, KeyError, TypeError, AttributeError):
        token = certificate = key = None
    if not token and not (certificate and key):
        raise KubeconfigError(f"the credential plugin {command} printed no token and no certificate")
    return replace(
        user,
        token=token,
        certificate=certificate.encode() if certificate else user.certificate,
        key=key.encode() if key else user.key,
    )
