"""TLS in front of a plain server, with a certificate made on the spot."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from worker import clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make_certificate(directory: Path, *, address: str = "127.0.0.1", expired: bool = False) -> Path:
    """Write a key and its own certificate for an address into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(hours=-1 if expired else 24))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file


@contextlib.contextmanager
def tls_front(url: str, certificate: Path) -> Iterator[str]:
    """Give an https:// URL on loopback that leads to a plain one."""
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        arguments = (listening, context, (parts.hostname or "", parts.port or 80))
        threading.Thread(target=_accept, args=arguments, daemon=True).start()
        port = listening.getsockname()[1]
        yield parts._replace(scheme="https", netloc=f"127.0.0.1:{port}").geturl()
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, context: ssl.SSLContext, server: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listening.accept()
            threading.Thread(target=_serve, args=(client, context, server), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, server: tuple[str, int]) -> None:
    with contextlib.suppress(OSError), client, socket.create_connection(server) as plain:
        secured = context.wrap_socket(client, server_side=True)
        with secured:
            while data := secured.recv(1 << 16):  # a request of ours is written at once
                plain.sendall(data)
                secured.sendall(plain.recv(1 << 16))
