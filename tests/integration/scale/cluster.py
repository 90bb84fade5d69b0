"""A cluster with simulated nodes, and a client that is fast enough for hundreds of runs."""

import base64
import json
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

VARIABLE = "IPPO_KWOK_KUBECONFIG"
"""Names the kubeconfig of a cluster that may be filled with runs, so that no cluster is meant by accident."""
HINT = (
    f"set {VARIABLE} to the kubeconfig of a throw-away cluster whose pods kwok starts with "
    "tests/integration/scale/kwok.yaml; with the lab: KWOK_CONFIG=…/kwok.yaml lab up --no-node --kwok 4"
)
Object = dict[str, Any]


def find_kubeconfig() -> Path | None:
    """The kubeconfig that the environment names."""
    variable = os.environ.get(VARIABLE)
    return Path(variable) if variable else None


class Cluster:
    """Requests as an administrator. Use as an async context manager.

    Args:
        kubeconfig: of the cluster; its first cluster and user count.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        document = yaml.safe_load(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self._url = cluster["server"]
        self._context = ssl.create_default_context(cafile=_file(cluster, "certificate-authority"))
        self._headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        if "token" not in user:
            self._context.load_cert_chain(_file(user, "client-certificate"), _file(user, "client-key"))

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._session = aiohttp.ClientSession(self._url, connector=connector, headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, method: str, path: str, body: Object | None = None) -> tuple[int, Object]:
        """Status and body; PATCH is a JSON merge patch."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, path, data=data, headers={"Content-Type": kind}) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else {"message": text}

    async def get(self, path: str) -> Object:
        """The object; raises AssertionError where the server does not hand it out."""
        code, body = await self.send("GET", path)
        assert code == 200, body
        return body

    async def text(self, path: str) -> str:
        """The body of a GET."""
        async with self._session.get(path) as answer:
            return await answer.text()

    async def create(self, path: str, body: Object) -> Object:
        """POST; an object of that name is fine."""
        code, answer = await self.send("POST", path, body)
        assert code in {201, 409}, answer
        return answer

    async def watch(self, path: str, selectors: str) -> AsyncIterator[tuple[str, Object]]:
        """All objects there are (ADDED), then their changes, until the caller stops asking."""
        query = f"{path}?watch=true&{selectors}"
        async with self._session.get(query, read_bufsize=2**22) as answer:
            async for line in answer.content:
                event = json.loads(line)
                yield event["type"], event["object"]


def _file(section: Object, name: str) -> str:
    if name in section:
        return str(section[name])
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(base64.b64decode(section[f"{name}-data"]))
    return file.name
