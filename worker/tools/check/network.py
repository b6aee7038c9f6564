"""Names, ports and certificates: whether the brokers and the service can be reached at all, before anybody logs in."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Final
from urllib.parse import urlsplit

from worker.tools.check.certificate import described
from worker.tools.check.report import Finding, fault, ok, warning

CONNECT_SECONDS: Final = 5.0
_HEAD_BYTES: Final = 16 * 1024  # of a proxy's answer, at most

Wall = Callable[[], float]


def server(
    check: str,
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    *,
    tunnel: bytes = b"",
    tunnel_host: str = "",
    timeout_seconds: float = CONNECT_SECONDS,
    wall: Wall = time.time,
) -> Iterator[Finding]:
    """Resolve a name, connect, and where there is a `context` shake hands and look at the certificate.

    `tunnel` is what is sent to a proxy first, to reach `tunnel_host` through it.
    """
    subject = f"{host}:{port}"
    try:
        addresses = _resolved(host, port, timeout_seconds)
    except OSError as error:
        advice = "correct the name, or the DNS of this machine"
        yield fault(f"{check}.dns", subject, f"the name does not resolve: {_words(error)}", advice)
        return
    if addresses != [host]:
        yield ok(f"{check}.dns", subject, ", ".join(addresses))
    began = time.monotonic()
    try:
        connection = socket.create_connection((host, port), timeout_seconds)
    except OSError as error:
        advice = "start it, correct the port, or open the way to it (firewall, network policy, security group)"
        yield fault(f"{check}.connect", subject, f"no connection: {_words(error)}", advice)
        return
    with connection:
        yield ok(f"{check}.connect", subject, f"connected in {(time.monotonic() - began) * 1000:.0f} ms")
        if tunnel:
            refusal = _through_proxy(connection, tunnel)
            if refusal is not None:
                yield refusal
                return
        if context is not None:
            yield from _certificate(check, subject, tunnel_host or host, connection, context, wall)


def _resolved(host: str, port: int, timeout_seconds: float) -> list[str]:
    """Return the addresses of a name. The system's own call may hang for long, so it has a thread of its own."""
    answers: SimpleQueue[list[str] | OSError] = SimpleQueue()

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(sorted({str(one[4][0]) for one in found}))
        except OSError as error:
            answers.put(error)
        except UnicodeError:
            answers.put(OSError("it is not a name of a host"))

    threading.Thread(target=resolve, name=f"check-resolve-{host}", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_seconds)
    except Empty:
        raise TimeoutError(f"no answer of the DNS within {timeout_seconds:.0f} s") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _words(error: OSError) -> str:
    """Return an error of the system in its own words, without its number."""
    return error.strerror or str(error) or type(error).__name__


def _through_proxy(connection: socket.socket, tunnel: bytes) -> Finding | None:
    """Ask the proxy for a tunnel; return a fault where it gives none."""
    subject = "oss.proxy_url"
    head = b""
    try:
        connection.sendall(tunnel)
        while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
            piece = connection.recv(4096)
            if not piece:
                break
            head += piece
    except OSError as error:
        advice = "see the proxy: is this its port, and does it run?"
        return fault("service.proxy", subject, f"the proxy does not answer: {_words(error)}", advice)
    words = head.split(b"\r\n", 1)[0].decode("ascii", "replace").split(None, 2)
    status = words[1] if len(words) > 1 and words[0].startswith("HTTP/") else ""
    if status == "200":
        return None
    if status == "407":
        told = "the proxy refuses the login (407)"
        return fault("service.proxy", subject, told, "correct the name and password in oss.proxy_url")
    told = f"the proxy does not connect to the service, it answers {status or 'what is no HTTP'}"
    return fault(
        "service.proxy", subject, told, "allow the service's host and port in the proxy, or correct oss.proxy_url"
    )


def _certificate(
    check: str, subject: str, host: str, connection: socket.socket, context: ssl.SSLContext, wall: Wall
) -> Iterator[Finding]:
    try:
        with contextlib.closing(context.wrap_socket(connection, server_hostname=host)) as wrapped:
            certificate: dict[str, Any] = wrapped.getpeercert() or {}
            version = wrapped.version()
    except ssl.SSLCertVerificationError as error:
        told = f"the certificate is refused: {error.verify_message}"
        yield fault(f"{check}.tls", subject, told, _refused_advice(check, error))
        return
    except (OSError, ValueError) as error:
        told = f"no TLS handshake: {_words(error) if isinstance(error, OSError) else error}"
        yield fault(f"{check}.tls", subject, told, _handshake_advice(check))
        return
    if not certificate:
        told = f"{version}; the certificate is not verified"
        yield warning(
            f"{check}.tls", subject, told, "remove what turns the verification off, so that nobody can listen in"
        )
        return
    names = ", ".join(str(value) for _, value in certificate.get("subjectAltName", ())[:5])
    yield described(f"{check}.tls", subject, f"{version}, for {names}", certificate["notAfter"], wall())


def _refused_advice(check: str, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        return "reach it by a name that is in its certificate, or have a certificate made for this name"
    if error.verify_code in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
        return "have the certificate renewed; if it is new, look at this machine's clock"
    setting = "oss.ca_file" if check.startswith("service") else "kafka.ssl_cafile"
    return f"set {setting} to the certificate of the authority that issued it"


def _handshake_advice(check: str) -> str:
    if check.startswith("service"):
        return "is this the port for https? see oss.endpoint"
    return "is this a TLS port, and does it ask for a client's certificate? see kafka.security_protocol, kafka.ssl_certfile"


def host_and_port(url: str) -> tuple[str, int]:
    """Return them of a URL; the port of its scheme where it names none."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
