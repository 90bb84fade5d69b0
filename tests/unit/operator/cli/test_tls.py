"""Certificates of a kubeconfig: the server's is checked, the user's is shown."""

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ippo_operator.cluster.errors import UnavailableError
from ippo_operator.cluster.remote import kubeconfig as config
from ippo_operator.cluster.remote.http import Call, Http

from .server import kubeconfig

NAME = "kubernetes.default.svc"


class Pair(NamedTuple):
    """PEM."""

    certificate: bytes
    key: bytes


def self_signed(name: str) -> Pair:
    """A certificate that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return Pair(certificate.public_bytes(pem), private)


@pytest.fixture(scope="module")
def ada() -> Pair:
    """The user."""
    return self_signed("ada")


@pytest.fixture(scope="module")
def authority() -> Pair:
    """The server."""
    return self_signed(NAME)


@pytest.fixture(scope="module")
def url(ada: Pair, authority: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that takes only Ada and tells who came."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            shown = dict(pair[0] for pair in self.connection.getpeercert()["subject"])  # type: ignore[attr-defined]
            body = json.dumps({"user": shown["commonName"]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    folder = tmp_path_factory.mktemp("tls")
    (folder / "server.pem").write_bytes(authority.certificate + authority.key)
    (folder / "ada.pem").write_bytes(ada.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    context.load_verify_locations(folder / "ada.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def ask(folder: Path, url: str, user: Any, **cluster: Any) -> Any:
    """What the server says."""
    path = folder / "config"
    path.write_text(json.dumps(kubeconfig(url, user, **cluster)))
    return Http(config.load(str(path))).request(Call("GET", "/", {}))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_certificates_in_the_kubeconfig(url: str, ada: Pair, authority: Pair, tmp_path: Path) -> None:
    user = {"client-certificate-data": encoded(ada.certificate), "client-key-data": encoded(ada.key)}
    cluster = {"certificate-authority-data": encoded(authority.certificate), "tls-server-name": NAME}
    assert ask(tmp_path, url, user, **cluster) == {"user": "ada"}


def test_certificates_in_files_beside_it(url: str, ada: Pair, authority: Pair, tmp_path: Path) -> None:
    (tmp_path / "ada.crt").write_bytes(ada.certificate)
    (tmp_path / "ada.key").write_bytes(ada.key)
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    user = {"client-certificate": "ada.crt", "client-key": "ada.key"}
    cluster = {"certificate-authority": "ca.crt", "tls-server-name": NAME}
    assert ask(tmp_path, url, user, **cluster) == {"user": "ada"}
    assert ask(tmp_path, url, user, **{"insecure-skip-tls-verify": True}) == {"user": "ada"}


def test_a_server_that_is_not_trusted(url: str, ada: Pair, authority: Pair, tmp_path: Path) -> None:
    user = {"client-certificate-data": encoded(ada.certificate), "client-key-data": encoded(ada.key)}
    with pytest.raises(UnavailableError, match="its certificate is not trusted"):
        ask(tmp_path, url, user, **{"tls-server-name": NAME})
    cluster = {"certificate-authority-data": encoded(authority.certificate)}
    with pytest.raises(UnavailableError, match="its certificate is not trusted"):
        ask(tmp_path, url, user, **cluster)


def test_a_key_that_does_not_fit(url: str, ada: Pair, authority: Pair, tmp_path: Path) -> None:
    user = {"client-certificate-data": encoded(ada.certificate), "client-key-data": encoded(authority.key)}
    with pytest.raises(config.KubeconfigError, match="do not fit"):
        ask(tmp_path, url, user)
