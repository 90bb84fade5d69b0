"""The connection with an API server, for the operator, kopf and `ippo` alike: one aiohttp session with kubectl's ways.

aiohttp does TLS, proxies, keep-alive and streams; which authorities, proxy and credentials there are, `access` finds.
"""

import asyncio
import json
import os
import re
import socket
import ssl
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import aiohttp
from yarl import URL

from ippo_operator.cluster.access import plugins
from ippo_operator.cluster.access.files import KubeconfigError
from ippo_operator.cluster.access.kubeconfig import Login
from ippo_operator.cluster.access.plugins import Credentials
from ippo_operator.cluster.access.proxies import proxy_of
from ippo_operator.cluster.errors import ApiError, TooLargeError, UnavailableError, from_response
from ippo_operator.cluster.transport import PIECE, BodyTooLongError, ListReader, Request, Response
from ippo_operator.manifests.identity import MANAGER

OPERATOR = MANAGER
CONNECT_TIMEOUT = 15.0
LONGEST_LINE = 1 << 20
"""Bytes of a line of a stream that are kept; a longer one comes in pieces."""
_UNAUTHORIZED = 401
_REFUSAL = 1 << 18
"""Bytes of an answer that says no."""
_BROKEN = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
_CERTIFICATES = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Connection:
    """A session with an API server, as one user."""

    login: Login
    credentials: Credentials
    session: aiohttp.ClientSession

    @property
    def expired(self) -> bool:
        """Whether the credentials ended; only plugins say when."""
        expires = self.credentials.expires
        return expires is not None and datetime.now(UTC) >= expires


async def connect(
    login: Login,
    agent: str = OPERATOR,
    connections: int = 16,
    middlewares: Sequence[aiohttp.ClientMiddlewareType] = (),
    response_class: type[aiohttp.ClientResponse] = aiohttp.ClientResponse,
) -> Connection:
    """Opens a session in this event loop; the caller closes it. Nothing is sent yet, but a plugin may be asked.

    Args:
        login: where and who.
        agent: the name of the client.
        connections: at most so many at the same time; 0 for any number.
        middlewares: change what is asked for.
        response_class: reads answers.

    Raises:
        KubeconfigError: the credentials, certificates or the proxy cannot be used.
    """
    credentials = await asyncio.to_thread(plugins.credentials, login)
    proxy = proxy_of(login.server, login.proxy_url, os.environ)
    headers = {"User-Agent": agent} | ({} if login.compressed else {"Accept-Encoding": "identity"})
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=_tls(login, credentials)),
        headers=headers,
        proxy=proxy,
        middlewares=(_Identity(login, credentials), *middlewares),
        response_class=response_class,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    return Connection(login, credentials, session)


class _Identity:
    """Shows credentials to the API server, and to nobody whom it redirects to."""

    def __init__(self, login: Login, credentials: Credentials) -> None:
        self._login = login
        self._origin = URL(login.server).origin()
        self._token = credentials.token

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.url.origin() == self._origin:
            request.server_hostname = self._login.server_name or None
            authorization = self._authorization()
            if authorization:
                request.headers["Authorization"] = authorization
            for name, value in self._login.user.impersonation:
                request.headers.add(name, value)
        return await handler(request)

    def _authorization(self) -> str:
        user = self._login.user
        if user.token_file is not None:
            # A file that is written right now is empty or gone for a moment: then the last token counts.
            with suppress(OSError, UnicodeDecodeError):
                self._token = user.token_file.read_text().strip() or self._token
        if self._token:
            return f"Bearer {self._token}"
        return aiohttp.encode_basic_auth(*user.basic) if user.basic else ""


def _tls(login: Login, credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if login.ca:
        certificates = b"\n".join(_CERTIFICATES.findall(login.ca)).decode("ascii", "replace")
        try:
            context.load_verify_locations(cadata=certificates)
        except (ssl.SSLError, ValueError):
            raise KubeconfigError("the kubeconfig's certificate-authority is no PEM certificate") from None
    elif login.server.startswith("https:") and not login.insecure:
        context.load_default_certs()  # takes a while
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # many clusters' own authorities lack the key usage extension
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority between may be all that is trusted
    if login.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if credentials.certificate:
        _load_certificate(context, credentials)
    return context


def _load_certificate(context: ssl.SSLContext, credentials: Credentials) -> None:
    """`ssl` takes files only: one that is the user's alone, and gone at once."""

    def no_password() -> str:
        raise KubeconfigError("the client key is encrypted, which is not supported; keep it without a password")

    handle, name = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(credentials.certificate + b"\n" + credentials.key)
        context.load_cert_chain(name, password=no_password)
    except ssl.SSLError:
        raise KubeconfigError("the kubeconfig's client certificate and key do not fit, or are no PEM") from None
    finally:
        Path(name).unlink()


class KubernetesTransport:
    """Requests over one pool of connections. It connects at the first request, and anew with other credentials.

    Args:
        login: where and who, to begin with.
        reload: gives the login as it is now; asked when the credentials ended or were refused.
        agent: the name of the client.
        connections: at most so many at the same time.
    """

    def __init__(self, login: Login, reload: Callable[[], Login], agent: str = OPERATOR, connections: int = 16) -> None:
        self._login = login
        self._reload = reload
        self._agent = agent
        self._limit = connections
        self._lock = asyncio.Lock()
        self._current: Connection | None = None
        self._retired: Connection | None = None
        """Its last requests may still be under way."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in (self._current, self._retired):
            if connection is not None:
                await connection.session.close()

    async def connection(self) -> Connection:
        """With credentials that have not ended, as far as is known.

        Raises:
            KubeconfigError: at the first time: there is nothing to connect with.
        """
        current = self._current
        if current is not None and not current.expired:
            return current
        async with self._lock:
            if self._current is None:
                self._current = await connect(self._login, self._agent, self._limit)
            elif self._current.expired:
                await self._renew(self._current)
            return self._current

    async def _renew(self, used: Connection) -> bool:
        """Connects anew if there are other credentials than those in use; the lock is held."""
        try:
            fresh = await connect(await asyncio.to_thread(self._reload), self._agent, self._limit)
        except KubeconfigError:
            return False
        if (fresh.login, fresh.credentials) == (used.login, used.credentials):
            await fresh.session.close()
            return False
        if self._retired is not None:
            await self._retired.session.close()
        self._retired, self._current = used, fresh
        return True

    async def _renewed(self, used: Connection) -> bool:
        """Whether there are other credentials than those that were refused; looked for once, however many ask."""
        async with self._lock:
            return self._current is not used or await self._renew(used)

    async def send(self, request: Request, timeout: float) -> Response:
        """See Transport. Raises UnavailableError too where credentials were refused but there are others by now."""
        connection = await self.connection()
        limits = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._started(connection, request, limits) as answer:
                response = await _read(answer, request)
        except (BodyTooLongError, RecursionError) as error:
            raise TooLargeError(f"{request.method} {request.path}: {error}") from None
        except _BROKEN as error:
            if request.foreign:
                raise UnavailableError(_words(connection.login, error)) from None
            raise _unreachable(connection.login, error) from None
        if response.status == _UNAUTHORIZED and not request.foreign and await self._renewed(connection):
            raise UnavailableError("the credentials were refused; there are new ones", _UNAUTHORIZED, retry_after=0.0)
        return response

    async def lines(self, request: Request, idle: float) -> AsyncGenerator[str, None]:
        """The lines of a text stream as they come, without their ends; ends with the stream.

        Args:
            request: a GET.
            idle: seconds without a byte after which the connection counts as lost.

        Raises:
            ApiError: the server refused; UnavailableError also when the stream breaks.
        """
        connection = await self.connection()
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=idle)
        try:
            async with self._started(connection, request, limits) as answer:
                if answer.status >= 300:
                    raise from_response(answer.status, answer.headers, _parsed(await answer.read()))
                async for line in _split(answer.content):
                    yield line.decode(errors="replace").rstrip("\r\n")
        except _BROKEN as error:
            raise _unreachable(connection.login, error) from None

    @staticmethod
    def _started(connection: Connection, request: Request, limits: aiohttp.ClientTimeout) -> Any:
        headers = {"Accept": request.accept}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        url = URL(connection.login.server + request.target, encoded=True)
        body = None if request.body is None else json.dumps(request.body).encode()
        return connection.session.request(
            request.method,
            url,
            headers=headers,
            data=body,
            timeout=limits,
            allow_redirects=False,
            auto_decompress=not request.foreign,  # a few bytes may be many
        )


async def _split(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in stream.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > LONGEST_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest


def _unreachable(login: Login, error: BaseException) -> ApiError:
    return UnavailableError(f"cannot reach the API server {login.server}: {_words(login, error)}")


def _words(login: Login, error: BaseException) -> str:
    """What broke, and what to check; a proxy's password is in no text."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        message = getattr(error.certificate_error, "verify_message", None) or "its name is another one"
        return f"its certificate is not trusted ({message}); check certificate-authority of the kubeconfig"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        hint = "; check the user and password in the proxy's URL" if error.status == 407 else ""
        return f"the proxy answers {error.status} {error.message}{hint}"
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientConnectorDNSError) and (
        isinstance(error, aiohttp.ClientProxyConnectionError) or error.host != URL(login.server).host
    ):
        remedy = "check proxy-url of the kubeconfig, or HTTPS_PROXY"
        return f"its proxy {error.host}:{error.port} cannot be reached ({_reason(error.os_error)}); {remedy}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known; check the kubeconfig's server and the network"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused; check the kubeconfig's server and that the cluster runs"
    return _reason(cause)


def _reason(error: BaseException) -> str:
    """In the system's words: asyncio puts addresses into its own."""
    number = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError | socket.gaierror) else 0
    text = os.strerror(number) if number else str(getattr(error, "strerror", None) or error)
    return " ".join(text.split()) or type(error).__name__


async def _read(answer: aiohttp.ClientResponse, request: Request) -> Response:
    """Raises BodyTooLongError before it holds more than the request allows, ValueError for a list that is cut off."""
    success = 200 <= answer.status < 300
    if request.foreign:
        body = await _read_whole(answer, request.most)
        return Response(answer.status, {}, body, len(body))
    if request.keep is None or not success:
        body = await _read_whole(answer, request.most if success else _REFUSAL)
        return Response(answer.status, answer.headers, _parsed(body), len(body))
    reader = ListReader(request.keep, request.most, request.whole)
    async for piece in answer.content.iter_chunked(PIECE):
        reader.feed(piece)
    return Response(answer.status, answer.headers, reader.close(), reader.size)


async def _read_whole(answer: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for piece in answer.content.iter_chunked(PIECE):
        body += piece
        if len(body) > most:
            raise BodyTooLongError(f"the answer has more than {most >> 10} KiB")
    return bytes(body)


def _parsed(body: bytes) -> Any:
    with suppress(ValueError):
        return json.loads(body)
    return body.decode(errors="replace")
