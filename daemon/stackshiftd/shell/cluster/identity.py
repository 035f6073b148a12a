"""What a daemon proves itself with to those on other machines.

Each makes a key and a certificate at its start, and writes the certificate into the members' table.
Whoever may write there is a member: the database's own credentials decide who belongs, and there is
no authority to set up, and nothing that expires unseen. Both ends of a connection show theirs, and
each takes exactly those in the table. The key is only in memory.
"""

from __future__ import annotations

import datetime
import secrets
import ssl
import tempfile
from pathlib import Path
from typing import Final

from stackshift_jobs.errors import BadConfiguration

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError:  # Then this daemon neither listens nor connects to others.
    IS_POSSIBLE = False
else:
    IS_POSSIBLE = True

_YEARS: Final = datetime.timedelta(days=3650)


class Identity:
    """A key, its certificate, and whom this daemon trusts. `scratch` is a private directory."""

    def __init__(self, host: str, scratch: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        # Unlike that of any other: OpenSSL takes a certificate for the issuer of all of its name.
        unique = f"{secrets.token_hex(8)} {host[:40]}"
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, unique)])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # A clock that is a day behind must not lock its daemon out.
            .not_valid_before(now - _YEARS)
            .not_valid_after(now + _YEARS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        self.certificate = made.public_bytes(pem).decode()
        """As PEM text."""
        private = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with tempfile.NamedTemporaryFile(dir=scratch) as file:  # ssl reads keys from files alone
            file.write(private + self.certificate.encode())
            file.flush()
            self.server = _context(ssl.PROTOCOL_TLS_SERVER, file.name)
            self.client = _context(ssl.PROTOCOL_TLS_CLIENT, file.name)
        self._hosts: dict[bytes, str] = {}

    def trust(self, certificates: dict[str, str]) -> None:
        """From now on trust these certificates, by host, and no others."""
        pins: dict[bytes, str] = {}
        for host, text in certificates.items():
            try:
                der = ssl.PEM_cert_to_DER_cert(text)
                if der not in self._hosts:
                    for context in (self.server, self.client):
                        context.load_verify_locations(cadata=der)
            except (ValueError, ssl.SSLError):  # Not written by a daemon.
                continue
            pins[der] = host
        self._hosts = pins

    def host_of(self, peer: ssl.SSLObject | ssl.SSLSocket) -> str | None:
        """The host at the other end of a connection; None if it is not trusted any more."""
        return self._hosts.get(peer.getpeercert(binary_form=True) or b"")


def _context(protocol: int, file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(file)
    return context


def missing() -> BadConfiguration:
    """The error for a daemon that cannot connect to others."""
    return BadConfiguration(
        "daemons on several machines need cryptography, which is not installed",
        hint="pip install 'stackshift-jobs[cluster]'",
        key="cluster.listen",
    )
