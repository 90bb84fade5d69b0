"""Stores to test against, and a proxy that breaks what goes through it."""

import contextlib
import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from ippo_trainer.contract.spec import S3Location
from ippo_trainer.store.base import Store
from ippo_trainer.store.local import LocalStore
from ippo_trainer.store.s3 import RequestLimits, S3Store

from tests.kit.http_server import HttpServer
from tests.kit.lab import find_program
from tests.kit.ports import free_port
from tests.kit.waiting import until

ACCESS, SECRET = "AKIATESTTESTTESTTEST", "the-secret-access-key-of-the-tests"
BUCKET = "ippo-tests"
PATIENT = RequestLimits()
QUICK = RequestLimits(connect=2, read=0.3, total=20, attempts=3)


@contextlib.contextmanager
def _server(command: list[str], port: int, log: Path) -> Iterator[str]:
    """A server process that listens on a port; waits until it does."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:

            def listens() -> bool:
                assert process.poll() is None, f"{command[0]} ended: {log.read_text()}"
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    return True
                return False

            until(listens, f"{command[0]} listens", 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _make_bucket(endpoint: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=os.environ.get("IPPO_TEST_S3_ACCESS_KEY", ACCESS),
        aws_secret_access_key=os.environ.get("IPPO_TEST_S3_SECRET_KEY", SECRET),
        config=Config(s3={"addressing_style": "path"}),
    )
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)


@pytest.fixture(scope="package")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a moto server in a process of its own: its memory is not ours."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _server(command, port, tmp_path_factory.mktemp("moto") / "log") as endpoint:
        _make_bucket(endpoint)
        yield endpoint


@pytest.fixture(scope="package")
def real_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server: IPPO_TEST_S3_ENDPOINT (with IPPO_TEST_S3_ACCESS_KEY and _SECRET_KEY), or versitygw."""
    if endpoint := os.environ.get("IPPO_TEST_S3_ENDPOINT"):
        _make_bucket(endpoint)
        yield endpoint
        return
    binary = find_program("versitygw")
    if binary is None:
        pytest.skip("no S3 server: neither IPPO_TEST_S3_ENDPOINT is set nor versitygw found on PATH")
    home, port = tmp_path_factory.mktemp("versitygw"), free_port()
    (home / "data").mkdir()
    command = [
        str(binary),
        "--access",
        ACCESS,
        "--secret",
        SECRET,
        "--port",
        f"127.0.0.1:{port}",
        "posix",
        str(home / "data"),
    ]
    with _server(command, port, home / "log") as endpoint:
        _make_bucket(endpoint)
        yield endpoint


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", os.environ.get("IPPO_TEST_S3_ACCESS_KEY", ACCESS))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", os.environ.get("IPPO_TEST_S3_SECRET_KEY", SECRET))


def s3_store(endpoint: str, limits: RequestLimits = PATIENT, bucket: str = BUCKET) -> S3Store:
    """A store at a prefix that nobody else uses."""
    return S3Store(S3Location(bucket=bucket, prefix=f"tests/{uuid.uuid4().hex}", endpoint_url=endpoint), limits)


@pytest.fixture(params=["local", "moto", "real_s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, credentials: None) -> Store:
    """Each kind of store, empty."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return s3_store(request.getfixturevalue(request.param))


@dataclass
class Fault:
    """What the proxy does to the next `times` requests that match: answer a status, or break the connection."""

    method: str = ""
    suffix: str = ""
    times: int = 1000
    status: int = 0
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    header: str = ""
    """Of the request, which `forget` leaves out and without which `demand` refuses."""
    how: str = "status"
    """status; reset: hang up before the answer; lose: forward, then hang up; cut: end in the middle of the body;
    empty: hang up before it; hang: never answer; alter: flip a bit of the body; forget: forward without a header;
    demand: answer the status to requests without a header."""


class FaultProxy(HttpServer):
    """Forwards HTTP to an S3 server, except where a fault applies.

    `seen` holds methods and paths, `sent` counts the bytes of bodies.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self.sent = 0
        self.exempt = "\0"
        """Requests with this in their query have no faults: of an upload, only the first one speaks of encryption."""
        self.over = threading.Event()
        self._lock = threading.Lock()

    def __exit__(self, *error: object) -> None:
        self.over.set()
        super().__exit__(*error)

    def _next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.seen.append((method, path))
            for fault in self.faults:
                if fault.times > 0 and fault.method in ("", method) and path.endswith(fault.suffix):
                    fault.times -= 1
                    return fault
        return None

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path, _, query = handler.path.partition("?")
        fault = self._next_fault(handler.command, path) if self.exempt not in query else None
        if fault is not None and fault.how == "forget":
            del handler.headers[fault.header]
        wanting = fault is not None and fault.how == "demand" and fault.header not in handler.headers
        if fault is not None and (fault.how == "status" or wanting):
            self._answer(handler, fault)
        elif fault is not None and fault.how == "hang":
            self.over.wait(30)
            handler.close_connection = True
        elif fault is not None and fault.how == "reset":
            _hang_up(handler)
        else:
            self._forward(handler, body, fault)

    def _answer(self, handler: BaseHTTPRequestHandler, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>key {ACCESS} secret {SECRET}</Message></Error>".encode()
        text = b"" if handler.command == "HEAD" or not fault.code else text
        handler.send_response(fault.status)
        for name, value in {**fault.headers, "Content-Length": str(len(text))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes, fault: Fault | None) -> None:
        connection = http.client.HTTPConnection(self.target, timeout=30)
        with contextlib.closing(connection):
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            try:
                response = connection.getresponse()
                data = response.read()
            except OSError:  # the client gave up
                _hang_up(handler)
                return
            if fault is not None and fault.how == "lose":
                _hang_up(handler)
                return
            handler.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server", "content-length"):
                    handler.send_header(name, value)
            length = response.getheader("Content-Length") if handler.command == "HEAD" else str(len(data))
            handler.send_header("Content-Length", length or "0")
            handler.end_headers()
            if fault is not None and fault.how == "alter":
                data = bytes([data[0] ^ 1]) + data[1:]
            if fault is not None and fault.how in ("cut", "empty"):
                data = data[: len(data) // 2] if fault.how == "cut" else b""
                self.sent += len(data)
                handler.wfile.write(data)
                handler.close_connection = True
                if not data:
                    _hang_up(handler)
                return
            self.sent += len(data)
            handler.wfile.write(data)


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Closes with a reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
    handler.wfile = Path(os.devnull).open("wb")  # noqa: SIM115


@pytest.fixture
def proxy(moto: str, credentials: None) -> Iterator[FaultProxy]:
    """A proxy before moto that has no faults yet."""
    with FaultProxy(moto) as running:
        yield running


@pytest.fixture
def faulty(proxy: FaultProxy) -> S3Store:
    """A store behind the proxy, with little patience."""
    return s3_store(proxy.url, QUICK)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Takes the place of the back-off's sleeping; holds how long it would have slept."""
    slept: list[float] = []

    clock = SimpleNamespace(sleep=slept.append, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr("botocore.endpoint.time", clock)
    monkeypatch.setattr("ippo_trainer.store.s3.time", clock)
    return slept
