"""Connections to a real API server, with the official client's credentials: service account or kubeconfig."""

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from ippo_operator.cluster.errors import UnavailableError
from ippo_operator.cluster.transport import Request, Response

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN = "BearerToken"  # noqa: S105
_UNAUTHORIZED = 401


class NoClusterError(Exception):
    """There is no cluster to talk to; the message says what was looked for."""


@dataclass(frozen=True)
class Credentials:
    """Where the API server is and how to log in, for other clients in this process."""

    server: str
    ca_path: str | None
    insecure: bool
    certificate_path: str | None
    private_key_path: str | None
    token: str | None
    """Without its scheme, which is Bearer."""


async def load(context: str | None = None) -> Configuration:
    """Credentials of this process: $KUBECONFIG or ~/.kube/config if there is one, else the pod's service account.

    Raises:
        NoClusterError: neither is there, or the file is not a kubeconfig.
    """
    configuration = Configuration()
    in_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and _SERVICE_ACCOUNT.exists()
    try:
        if in_pod and not os.environ.get("KUBECONFIG") and context is None:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(context=context, client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        where = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise NoClusterError(f"no cluster: neither a service account nor {where} can be used ({error})") from None
    configuration.disable_strict_ssl_verification = True  # many clusters' own CAs lack the key usage extension
    return configuration


async def credentials(configuration: Configuration) -> Credentials:
    """The configuration's credentials as they are now; a service account's token is read again when it was rotated."""
    token: str | None = await configuration.get_api_key_with_prefix(_TOKEN)
    return Credentials(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        token=token[7:] if token and token[:7].lower() == "bearer " else token,
    )


async def renew(configuration: Configuration, context: str | None = None) -> bool:
    """Reads the token again, after the API server refused the one in use; whether there is another one now.

    Tokens of a kubeconfig, be they in it, in a file or from a program, are otherwise read once.
    """
    try:
        fresh = await load(context)
    except NoClusterError:
        return False
    token = fresh.api_key.get(_TOKEN)
    if token is None or token == configuration.api_key.get(_TOKEN):
        return False
    configuration.api_key[_TOKEN] = token
    configuration.refresh_api_key_hook = fresh.refresh_api_key_hook  # a service account's, which keeps what it read
    return True


class KubernetesTransport:
    """Requests over one pool of connections.

    Args:
        configuration: of `load`.
        connections: at most so many at the same time.
        context: that `load` was given.
    """

    def __init__(self, configuration: Configuration, connections: int = 16, context: str | None = None) -> None:
        configuration.connection_pool_maxsize = connections
        self._context = context
        self._renewal = asyncio.Lock()
        self._api = ApiClient(configuration)
        self._api.user_agent = "ippo-operator"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()

    async def send(self, request: Request, timeout: float) -> Response:
        """See Transport. Raises UnavailableError too where a token was refused but there is another one by now."""
        used = self._api.configuration.api_key.get(_TOKEN)
        response = await self._send(request, timeout)
        if response.status == _UNAUTHORIZED and await self._renewed(used):
            raise UnavailableError("the token was refused; there is a new one", _UNAUTHORIZED, retry_after=0.0)
        return response

    async def _renewed(self, used: str | None) -> bool:
        """Whether there is another token than the one that was used; read once, however many requests ask."""
        async with self._renewal:
            configuration = self._api.configuration
            return configuration.api_key.get(_TOKEN) != used or await renew(configuration, self._context)

    async def _send(self, request: Request, timeout: float) -> Response:
        headers = {"Accept": request.accept, "Content-Type": request.content_type}
        try:
            answer = await self._api.call_api(
                request.path,
                request.method,
                query_params=list(request.query.items()),
                header_params=headers,
                body=request.body,
                auth_settings=[_TOKEN],
                _preload_content=False,
                _request_timeout=timeout,
            )
            async with answer:
                body = await answer.read()
                return Response(answer.status, answer.headers, _parsed(body))
        except (aiohttp.ClientError, TimeoutError, OSError, config.ConfigException) as error:
            raise UnavailableError(f"{request.method} {request.path}: {error or type(error).__name__}") from None


def _parsed(body: bytes) -> Any:
    with suppress(ValueError):
        return json.loads(body)
    return body.decode(errors="replace")
