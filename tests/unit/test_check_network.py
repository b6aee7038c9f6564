"""The way to a server: names, ports, certificates and proxies, each fault with advice of its own."""

import contextlib
import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.http_proxy import HttpProxy
from tests.support.worker import free_port
from worker.tools.check import certificate, network
from worker.tools.check.network import server
from worker.tools.check.proxy import connect_request
from worker.tools.check.report import Finding, Status

SECONDS = 3.0


def days(count: float) -> dt.datetime:
    """Return the time in so many days."""
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=count)


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that accepts connections and shakes hands; yields its port. Without `tls` it answers in plain text."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(SECONDS)
                with contextlib.suppress(OSError), connection:
                    if tls is None:
                        connection.sendall(b"this is no TLS\r\n")
                    else:
                        with tls.wrap_socket(connection, server_side=True) as wrapped:
                            wrapped.recv(1)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(2 * SECONDS)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority that clients trust."""
    return trustme.CA()


def context_of(issued: trustme.LeafCert) -> ssl.SSLContext:
    """Return how a server uses a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return how a client trusts an authority, and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def last(findings: Iterator[Finding]) -> tuple[str, Status, str, str]:
    """Return check, status, result and advice of the last finding."""
    found = list(findings)[-1]
    return found.check, found.status, found.result, found.advice


def test_a_name_that_does_not_resolve_is_a_fault_of_the_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_args: object, **_options: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    check, status, result, advice = last(server("kafka", "no-such-host.invalid", 9092, None))
    assert (check, status) == ("kafka.dns", Status.FAULT)
    assert result.startswith("the name does not resolve: ")
    assert "DNS" in advice


def test_a_dns_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's call cannot be cut, so it must not be waited for."""
    never = threading.Event()

    def hang(*_args: object, **_options: object) -> list[object]:
        never.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    check, status, result, _ = last(server("kafka", "slow.example", 9092, None, timeout_seconds=0.05))
    never.set()
    assert (check, status) == ("kafka.dns", Status.FAULT)
    assert "no answer of the DNS" in result
    assert time.monotonic() - began < 30


def test_a_name_that_is_none_is_a_fault_of_the_dns() -> None:
    """A label of a name has at most 63 characters: Python raises an error of its own."""
    check, status, result, _ = last(server("kafka", "a" * 64 + ".example", 9092, None))
    assert (check, status, result) == (
        "kafka.dns",
        Status.FAULT,
        "the name does not resolve: it is not a name of a host",
    )


def test_a_closed_port_is_a_fault_of_the_connection() -> None:
    check, status, result, advice = last(server("kafka", "127.0.0.1", free_port(), None))
    assert (check, status, result) == ("kafka.connect", Status.FAULT, "no connection: Connection refused")
    assert "firewall" in advice


def test_an_open_port_is_ok() -> None:
    with serving() as port:
        found = list(server("kafka", "localhost", port, None))
    assert [(one.check, one.status) for one in found] == [("kafka.dns", Status.OK), ("kafka.connect", Status.OK)]


def test_a_certificate_is_shown_with_its_names_and_its_end(authority: trustme.CA) -> None:
    issued = authority.issue_cert("localhost", "kafka.example", not_after=days(100.5))
    with serving(context_of(issued)) as port:
        check, status, result, _ = last(server("kafka", "localhost", port, trusting(authority)))
    assert (check, status) == ("kafka.tls", Status.OK)
    assert "for localhost, kafka.example, 100 days left" in result


def test_a_certificate_that_expires_soon_is_a_warning(authority: trustme.CA) -> None:
    with serving(context_of(authority.issue_cert("localhost", not_after=days(5.5)))) as port:
        check, status, result, advice = last(server("kafka", "localhost", port, trusting(authority)))
    assert (check, status) == ("kafka.tls", Status.WARNING)
    assert "5 days left" in result or "6 days left" in result
    assert "renewed" in advice


@pytest.mark.parametrize(
    ("name", "start", "end", "told", "advice"),
    [
        ("localhost", -10, -1, "expired", "renewed"),
        ("localhost", 1, 10, "not yet valid", "clock"),
        ("other.example", -1, 100, "mismatch", "by a name that is in its certificate"),
    ],
)
def test_a_certificate_that_is_refused_has_advice_of_its_own(
    authority: trustme.CA, name: str, start: float, end: float, told: str, advice: str
) -> None:
    issued = authority.issue_cert(name, not_before=days(start), not_after=days(end))
    with serving(context_of(issued)) as port:
        check, status, result, said = last(server("kafka", "localhost", port, trusting(authority)))
    assert (check, status) == ("kafka.tls", Status.FAULT)
    assert told in result
    assert advice in said


@pytest.mark.parametrize(("check", "setting"), [("kafka", "kafka.ssl_cafile"), ("service", "oss.ca_file")])
def test_an_authority_that_is_not_trusted_names_the_setting(authority: trustme.CA, check: str, setting: str) -> None:
    with serving(context_of(trustme.CA().issue_cert("localhost"))) as port:
        found, status, _, advice = last(server(check, "localhost", port, trusting(authority)))
    assert (found, status) == (f"{check}.tls", Status.FAULT)
    assert setting in advice


def test_a_port_without_tls_is_a_fault_of_the_handshake(authority: trustme.CA) -> None:
    with serving() as port:
        check, status, _, advice = last(server("kafka", "localhost", port, trusting(authority)))
    assert (check, status) == ("kafka.tls", Status.FAULT)
    assert "kafka.security_protocol" in advice


def test_a_silent_port_ends_the_handshake_in_time(authority: trustme.CA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = last(server("kafka", "127.0.0.1", port, trusting(authority), timeout_seconds=0.1))
    assert found[:2] == ("kafka.tls", Status.FAULT)


def test_a_connection_whose_certificate_nobody_verifies_is_a_warning(authority: trustme.CA) -> None:
    context = trusting(authority)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with serving(context_of(authority.issue_cert("localhost"))) as port:
        check, status, result, _ = last(server("kafka", "localhost", port, context))
    assert (check, status) == ("kafka.tls", Status.WARNING)
    assert "not verified" in result


# -- the client's own certificate


@pytest.mark.parametrize(("end", "status"), [(-1.0, Status.FAULT), (3.0, Status.WARNING), (100.0, Status.OK)])
def test_the_clients_own_certificate_is_looked_at(
    authority: trustme.CA, tmp_path: Path, end: float, status: Status
) -> None:
    path = tmp_path / "client.pem"
    issued = authority.issue_cert("worker@example.com", common_name="worker", not_before=days(-10), not_after=days(end))
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    found = certificate.own("kafka.certificate", str(path), time.time())
    assert (found.check, found.subject, found.status) == ("kafka.certificate", str(path), status)
    assert "worker" in found.result


def test_a_file_without_a_certificate_is_not_tried(tmp_path: Path) -> None:
    path = tmp_path / "none.pem"
    path.write_text("nothing", encoding="ascii")
    assert certificate.own("kafka.certificate", str(path), 0).status is Status.SKIPPED


# -- a proxy


def through(proxy: HttpProxy, port: int, context: ssl.SSLContext | None, login: str = "") -> Iterator[Finding]:
    """Return the findings on the way through a proxy to localhost."""
    tunnel = connect_request(proxy.url(login), "localhost", port)
    return server("service.proxy", "127.0.0.1", proxy.port, context, tunnel=tunnel, tunnel_host="localhost")


def test_the_certificate_behind_a_proxy_is_shown(authority: trustme.CA) -> None:
    issued = authority.issue_cert("localhost", not_after=days(100.5))
    with serving(context_of(issued)) as port, HttpProxy("user:secret password", ("127.0.0.1", port)) as proxy:
        check, status, result, _ = last(through(proxy, port, trusting(authority), "user:secret%20password"))
    assert (check, status) == ("service.proxy.tls", Status.OK)
    assert "for localhost" in result


def test_a_proxy_that_refuses_the_login_is_a_fault_that_shows_no_password(authority: trustme.CA) -> None:
    with HttpProxy("user:the right one") as proxy:
        found = list(through(proxy, 443, trusting(authority), "user:the-wrong-one"))
    assert (found[-1].check, found[-1].status) == ("service.proxy", Status.FAULT)
    assert "407" in found[-1].result
    assert found[-1].advice == "correct the name and password in oss.proxy_url"
    assert "the-wrong-one" not in repr(found)


@pytest.mark.parametrize(
    ("answer", "told"),
    [(b"HTTP/1.1 403 Forbidden\r\n\r\n", "answers 403"), (b"SSH-2.0-OpenSSH\r\n\r\n", "answers what is no HTTP")],
)
def test_a_proxy_that_does_not_connect_is_a_fault(authority: trustme.CA, answer: bytes, told: str) -> None:
    with HttpProxy() as proxy:
        proxy.answer = answer
        check, status, result, advice = last(through(proxy, 443, trusting(authority)))
    assert (check, status) == ("service.proxy", Status.FAULT)
    assert told in result
    assert "allow the service" in advice


def test_a_silent_proxy_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        request = connect_request("http://proxy", "localhost", 443)
        found = last(server("service.proxy", "127.0.0.1", port, None, tunnel=request, timeout_seconds=0.1))
    assert found[:2] == ("service.proxy", Status.FAULT)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://service.example", ("service.example", 443)),
        ("http://service.example", ("service.example", 80)),
        ("http://user:password@[::1]:3128", ("::1", 3128)),
    ],
)
def test_host_and_port_of_a_url(url: str, place: tuple[str, int]) -> None:
    assert network.host_and_port(url) == place


def test_a_tunnel_to_an_ipv6_address_has_brackets() -> None:
    assert connect_request("http://proxy", "::1", 443).startswith(
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"
    )
