"""Requests to the API server with the standard library: one connection at a time, bounded retries, streams of lines."""

import base64
import http.client
import json
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

from ippo_operator.cluster.errors import ApiError, UnavailableError, from_response
from ippo_operator.cluster.remote import plugins
from ippo_operator.cluster.remote.kubeconfig import KubeconfigError, Login

TIMEOUT = 15.0
ATTEMPTS = 3
LONGEST_WAIT = 5.0
_BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any = None
    content_type: str = "application/json"

    @property
    def target(self) -> str:
        """Path and query."""
        query = {name: value for name, value in self.query.items() if value}
        return f"{self.path}?{urlencode(query)}" if query else self.path


class Http:
    """An API server, as one user.

    Args:
        login: where and who.
        sleep: waits so many seconds.
    """

    def __init__(self, login: Login, sleep: Callable[[float], None] = time.sleep) -> None:
        self.login = login
        self._sleep = sleep
        self._url = urlsplit(login.server)
        if self._url.scheme not in {"http", "https"} or not self._url.hostname:
            raise KubeconfigError(f"the kubeconfig's server {login.server} is not an http(s) URL")
        self._user = login.user
        self._ready = login.user.plugin is None
        self._kept: http.client.HTTPConnection | None = None

    def request(self, call: Call) -> Any:
        """The JSON (or text) of a successful answer.

        Raises:
            ApiError: the server refused, or could not be reached.
            KubeconfigError: the user's credential plugin failed.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                return self._once(call)
            except UnavailableError as error:
                wait = error.retry_after if error.retry_after is not None else 1.0
                # A write that got no answer may have happened; its resourceVersion guards against a second time.
                if not left or error.status == 0 or wait > LONGEST_WAIT:
                    raise
            self._sleep(wait)
        raise AssertionError("at least one attempt")

    def _once(self, call: Call) -> Any:
        response, body = self._answer(call)
        if response.status == 401 and self._user.plugin is not None:
            self._ready = False  # the plugin's token ran out
            self._close()
            response, body = self._answer(call)
        if 200 <= response.status < 300:
            return _parsed(body)
        raise from_response(response.status, dict(response.headers), _parsed(body))

    def _answer(self, call: Call) -> tuple[http.client.HTTPResponse, bytes]:
        fresh = self._kept is None
        try:
            connection = self._kept or self._connect()
            self._kept = connection
            response = self._send(connection, call)
            body = response.read()
            if response.will_close:
                self._close()
            return response, body
        except _BROKEN as error:
            self._close()
            if not fresh and call.method == "GET":  # the server closed an idle connection
                return self._answer(call)
            raise self._unreachable(error) from None

    def lines(self, call: Call, idle: float = 300.0) -> Iterator[str]:
        """The lines of a text stream as they come, without their ends; ends with the stream.

        Args:
            call: a GET.
            idle: seconds without a byte after which the connection counts as lost.

        Raises:
            ApiError: as `request`; UnavailableError also when the stream breaks.
        """
        connection = self._connect()
        try:
            response = self._send(connection, call)
            if response.status >= 300:
                raise from_response(response.status, dict(response.headers), _parsed(response.read()))
            if connection.sock is not None:
                connection.sock.settimeout(idle)
            for line in response:
                yield line.decode(errors="replace").rstrip("\r\n")
        except _BROKEN as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection, call: Call) -> http.client.HTTPResponse:
        body = None if call.body is None else json.dumps(call.body).encode()
        connection.putrequest(call.method, self._url.path.rstrip("/") + call.target)
        headers = {"Accept": "application/json, */*", "User-Agent": "ippo", **self._authorization()}
        if body is not None:
            headers |= {"Content-Type": call.content_type, "Content-Length": str(len(body))}
        for name, value in headers.items():
            connection.putheader(name, value)
        for name, values in self._user.impersonate.items():
            for value in values:
                connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse()

    def _authorization(self) -> dict[str, str]:
        user = self._user
        token = user.token
        if user.token_file is not None and not token:
            try:
                token = user.token_file.read_text().strip()
            except OSError as error:
                raise KubeconfigError(f"cannot read the token file {user.token_file}: {error.strerror}") from None
        if token:
            return {"Authorization": f"Bearer {token}"}
        if user.basic is not None:
            return {"Authorization": "Basic " + base64.b64encode(":".join(user.basic).encode()).decode()}
        return {}

    def _connect(self) -> http.client.HTTPConnection:
        if not self._ready:
            self._user = plugins.run(self.login)
            self._ready = True
        host, port = str(self._url.hostname), self._url.port
        proxy = self._proxy()
        https = self._url.scheme == "https"
        port = port or (443 if https else 80)
        to, at = (str(proxy.hostname), proxy.port or 80) if proxy is not None else (host, port)
        if https:
            made: http.client.HTTPConnection = _Tls(to, at, self._context(), self.login.server_name or host)
        else:
            made = http.client.HTTPConnection(to, at, timeout=TIMEOUT)
        if proxy is not None:
            made.set_tunnel(host, port)
        return made

    def _proxy(self) -> Any:
        host = str(self._url.hostname)
        given = self.login.proxy or (None if proxy_bypass(host) else getproxies().get(self._url.scheme))
        if not given:
            return None
        parts = urlsplit(given)
        if parts.scheme != "http" or not parts.hostname:
            raise KubeconfigError(f"the proxy {parts.scheme}://{parts.hostname} is not supported; only http:// is")
        return parts

    def _context(self) -> ssl.SSLContext:
        login = self.login
        try:
            context = ssl.create_default_context(cadata=login.ca.decode() if login.ca else None)
        except (ssl.SSLError, ValueError):
            raise KubeconfigError("the kubeconfig's certificate-authority is no PEM certificate") from None
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # many clusters' own authorities lack the key usage extension
        if login.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self._user.certificate and self._user.key:
            _load_certificate(context, self._user.certificate, self._user.key)
        return context

    def _unreachable(self, error: Exception) -> ApiError:
        return UnavailableError(f"cannot reach the API server {self.login.server}: {_words(error)}")

    def _close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None


class _Tls(http.client.HTTPSConnection):
    """HTTPS that expects another name in the certificate than the one it connects to."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=TIMEOUT, context=context)
        self._tls, self._name = context, name

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """`ssl` takes files only: one that is the user's alone, and gone at once."""
    handle, path = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(certificate + b"\n" + key)
        context.load_cert_chain(path)
    except ssl.SSLError:
        raise KubeconfigError("the kubeconfig's client certificate and key do not fit, or are no PEM") from None
    finally:
        os.unlink(path)  # noqa: PTH108


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); check certificate-authority of the kubeconfig"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "its name is not known; check the kubeconfig's server and the network"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; check the kubeconfig's server and that the cluster runs"
    return str(error) or type(error).__name__


def _parsed(body: bytes) -> Any:
    with suppress(ValueError):
        return json.loads(body)
    return body.decode(errors="replace")
