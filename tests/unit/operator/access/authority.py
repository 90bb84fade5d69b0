"""Certificates for a test: an authority, one below it, and whom they vouch for."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


class Pair(NamedTuple):
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes

    @property
    def whole(self) -> bytes:
        """Both in one file."""
        return self.certificate + self.key

    def encrypted(self, password: bytes) -> bytes:
        """The key behind a password."""
        key = serialization.load_pem_private_key(self.key, None)
        protection = serialization.BestAvailableEncryption(password)
        return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, protection)


def issue(name: str, by: Pair | None = None, hosts: tuple[str, ...] = (), authority: bool = False) -> Pair:
    """A certificate of that name.

    Args:
        name: its common name.
        by: who signs it; itself by default.
        hosts: names and addresses of a server.
        authority: whether it may sign others.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = x509.load_pem_x509_certificate(by.certificate).subject if by else subject
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if hosts:
        names = [x509.IPAddress(ip_address(host)) if host[0].isdecimal() else x509.DNSName(host) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signer = serialization.load_pem_private_key(by.key, None) if by else key
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    certificate = builder.sign(signer, hashes.SHA256())
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate.public_bytes(_PEM), private)
