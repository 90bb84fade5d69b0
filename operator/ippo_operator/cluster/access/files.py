"""The files of a kubeconfig, merged as kubectl merges them, and the pod's service account in the same form."""

import json
import os
from pathlib import Path
from typing import Any

import yaml
from ippo_trainer.contract.variables import SERVICE_HOST

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATHS = {
    "clusters": ("certificate-authority",),
    "users": ("client-certificate", "client-key", "tokenFile"),
    "contexts": (),
}


class KubeconfigError(Exception):
    """A login that cannot be used; the message says what is wrong and what to do, on one line."""


class NoClusterError(KubeconfigError):
    """There is neither a kubeconfig nor a pod's service account."""


def places(path: str | None) -> list[Path]:
    """In the order of their rights. A KUBECONFIG of empty parts names no file, as for kubectl, and not the home's."""
    if path is not None:
        return [Path(path).expanduser()]
    named = os.environ.get("KUBECONFIG", "")
    if not named:
        return [Path.home() / ".kube" / "config"]
    return [Path(part) for part in dict.fromkeys(named.split(os.pathsep)) if part]


def merged(files: list[Path]) -> dict[str, Any]:
    """One kubeconfig of several: the first file that names something wins, and paths are relative to their file."""
    whole: dict[str, Any] = {"clusters": {}, "users": {}, "contexts": {}, "current-context": ""}
    for file in files:
        document = _read(file)
        whole["current-context"] = whole["current-context"] or document.get("current-context") or ""
        for section in _PATHS:
            for name, value in _entries(document, section, file).items():
                whole[section].setdefault(name, value)
    return whole


def _entries(document: dict[str, Any], section: str, file: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    listed = document.get(section) or []
    if not isinstance(listed, list):
        raise KubeconfigError(f"{file}: {section} is no list")
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise KubeconfigError(f"{file}: an entry of {section} has no name")
        value = entry.get(section[:-1]) or {}
        if not isinstance(value, dict):
            raise KubeconfigError(f"{file}: {section}, {entry['name']}: {section[:-1]} is no mapping")
        if entry["name"] in entries:
            raise KubeconfigError(f"{file}: {section} has two entries of the name {entry['name']}")
        entries[entry["name"]] = _placed(value, section, Path(os.path.abspath(file)).parent)  # noqa: PTH100 links stay
    return entries


def _placed(value: dict[str, Any], section: str, folder: Path) -> dict[str, Any]:
    """With paths that are relative to the kubeconfig made absolute."""
    value = dict(value)
    for key in _PATHS[section]:
        if isinstance(value.get(key), str) and value[key]:
            value[key] = str(folder / value[key])
    plugin = value.get("exec") if section == "users" else None
    if isinstance(plugin, dict) and os.sep in str(plugin.get("command")):
        value["exec"] = plugin | {"command": str(folder / str(plugin["command"]))}
    return value


class _KubeconfigLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """In C where there is one; what looks like a date is text, as for kubectl."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise KubeconfigError(f"cannot read the kubeconfig {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KubeconfigError(f"the kubeconfig {file} is not YAML") from None
    document: Any = None
    try:
        try:
            document = json.loads(text)  # YAML takes no tabs
        except ValueError:
            document = yaml.load(text, Loader=_KubeconfigLoader)  # noqa: S506 a safe loader
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError):  # the last three: of odd numbers
        raise KubeconfigError(f"the kubeconfig {file} is not YAML") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise KubeconfigError(f"{file} is not a kubeconfig")
    return document


def in_cluster() -> dict[str, Any] | None:
    """The pod's service account, as a kubeconfig."""
    host, port = os.environ.get(SERVICE_HOST), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token, namespace = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "namespace"
    if not host or not token.is_file():
        return None
    ca = SERVICE_ACCOUNT / "ca.crt"
    name = "in-cluster"
    cluster = {"server": f"https://{f'[{host}]' if ':' in host else host}:{port}"}
    context = {"cluster": name, "user": name}
    if namespace.is_file():
        context["namespace"] = namespace.read_text().strip()
    return {
        "clusters": {name: cluster | ({"certificate-authority": str(ca)} if ca.is_file() else {})},
        "users": {name: {"tokenFile": str(token)}},
        "contexts": {name: context},
        "current-context": name,
    }
