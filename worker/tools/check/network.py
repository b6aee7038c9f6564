"""Names, ports and certificates: whether the brokers and the service can be reached at all, before anybody logs in."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from worker.tools.check.report import Finding, fault, ok, warning

CONNECT_SECONDS: Final = 5.0
_EXPIRES_SOON_SECONDS: Final = 14 * 86400.0


def server(
    check: str,
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    *,
    wall: Callable[[], float] = time.time,
) -> Iterator[Finding]:
    """Resolve a name, connect, and where there is a `context` shake hands and look at the certificate."""
    subject = f"{host}:{port}"
    try:
        addresses = sorted({str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as error:
        yield fault(
            f"{check}.dns",
            subject,
            f"the name is not known: {error}",
            "correct the name, or the resolver of this machine",
        )
        return
    yield ok(f"{check}.dns", subject, ", ".join(addresses))
    began = time.monotonic()
    try:
        connection = socket.create_connection((host, port), CONNECT_SECONDS)
    except OSError as error:
        advice = "start it, correct the port, or open the way (firewall, network policy, security group)"
        yield fault(f"{check}.connect", subject, f"it does not accept connections: {error}", advice)
        return
    with connection:
        yield ok(f"{check}.connect", subject, f"connected in {(time.monotonic() - began) * 1000:.0f} ms")
        if context is not None:
            yield from _certificate(check, subject, host, connection, context, wall)


def _certificate(
    check: str, subject: str, host: str, connection: socket.socket, context: ssl.SSLContext, wall: Callable[[], float]
) -> Iterator[Finding]:
    try:
        with contextlib.closing(context.wrap_socket(connection, server_hostname=host)) as wrapped:
            certificate: dict[str, Any] = wrapped.getpeercert() or {}
            version = wrapped.version()
    except ssl.SSLCertVerificationError as error:
        advice = "trust its authority (kafka.ssl_cafile, oss.ca_file), or reach it by a name that the certificate has"
        yield fault(f"{check}.tls", subject, f"its certificate is refused: {error.verify_message}", advice)
        return
    except (OSError, ValueError) as error:
        yield fault(
            f"{check}.tls", subject, f"no TLS handshake: {error}", "is this the TLS port? see the security protocol"
        )
        return
    if not certificate:
        yield ok(f"{check}.tls", subject, f"{version}; the certificate is not verified")
        return
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - wall()
    names = ", ".join(str(value) for _, value in certificate.get("subjectAltName", ())[:5])
    told = f"{version}, for {names}, {left / 86400:.0f} days left"
    if left < _EXPIRES_SOON_SECONDS:
        yield warning(f"{check}.tls", subject, told, "have the certificate renewed")
    else:
        yield ok(f"{check}.tls", subject, told)


def host_and_port(url: str) -> tuple[str, int]:
    """Return them of a URL; the port of its scheme where it names none."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
