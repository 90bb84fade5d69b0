"""Rights that roles grant, and rights that a service account made use of, as the API server's audit log tells."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .helm import Manifest


class Right(NamedTuple):
    """To do one thing with one kind of object."""

    group: str
    resource: str
    """With its subresource: iterativepporuns/status."""
    verb: str


def granted(roles: Iterable[Manifest]) -> set[Right]:
    """What the roles' rules say, one by one."""
    return {
        Right(group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


class Audit:
    """What one service account asked the API server for.

    Args:
        log: of the API server; what it says already is left out.
        user: system:serviceaccount:<namespace>:<name>.
    """

    def __init__(self, log: Path, user: str) -> None:
        self._log = log
        self._from = log.stat().st_size if log.exists() else 0
        self._user = user

    def _entries(self) -> list[Manifest]:
        with self._log.open("rb") as log:
            log.seek(self._from)
            lines = log.read().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [entry for entry in entries if entry["user"]["username"] == self._user]

    def used(self) -> set[Right]:
        """Every right that was asked for, granted or not. Discovery, which everybody may, is not among them."""
        rights = set()
        for entry in self._entries():
            about = entry.get("objectRef")
            if about is None or "resource" not in about:
                continue
            resource = "/".join(filter(None, [about["resource"], about.get("subresource")]))
            rights.add(Right(about.get("apiGroup", ""), resource, entry["verb"]))
            # A server-side apply that makes the object is checked for both verbs, and logged as one.
            if entry["verb"] == "patch" and entry.get("responseStatus", {}).get("code") == 201:
                rights.add(Right(about.get("apiGroup", ""), resource, "create"))
        return rights

    def forbidden(self) -> list[str]:
        """Requests that were refused for want of a right."""
        return [
            f"{entry['verb']} {entry['requestURI']}"
            for entry in self._entries()
            if entry.get("responseStatus", {}).get("code") == 403
            or entry.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
        ]
