"""The connections to the service, over real sockets: bounds in time and size, certificates, proxies, kept connections."""

import contextlib
import queue
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from alibabacloud_oss_v2.credentials import Credentials

from tests.contract.test_sink import (
    ENVIRONMENT,
    OK,
    QUICK_SECONDS,
    RawServer,
    answering,
    error_of,
    put_body,
    read_request,
    real_sink,
    settings,
    transient,
)
from tests.support.bounded import thread
from tests.support.emulator import Emulator
from tests.support.fakes import FakeClock
from tests.support.http_proxy import HttpProxy
from tests.support.worker import wait_for
from worker.errors import BlockReason, RetryReason, SettingsError, TargetError
from worker.oss.credentials.providers import Provider
from worker.oss.exchange import Phase
from worker.oss.sink import OssSink

LOGIN, PASSWORD = "worker%40corp:p%3Ass%2Fword", "p:ss/word"
PLAIN_LOGIN = "worker@corp:p:ss/word"


def drip(*, first: bytes, again: bytes, seconds: float = 0.05) -> Callable[[socket.socket], None]:
    """Return a handler that reads a request, and then says `first` and, without end, `again` piece by piece."""

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(first)
        while True:
            for place in range(len(again)):
                connection.sendall(again[place : place + 1])
                time.sleep(seconds)

    return handle


# -- an answer that never ends


@pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"x-padding: 1\r\n", id="headers"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="100 Continue"),
        pytest.param(OK.replace(b"Length: 0", b"Length: 1000000"), b"{", id="body"),
        pytest.param(OK.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"), b"1\r\n{\r\n", id="chunks"),
        pytest.param(OK.replace(b"Content-Length: 0", b"Connection: close"), b" ", id="no length"),
    ],
)
def test_the_read_time_out_bounds_the_whole_answer(first: bytes, again: bytes) -> None:
    with RawServer(drip(first=first, again=again)) as server:
        started = time.monotonic()
        with real_sink("bucket", server.endpoint, read_timeout_seconds=0.5) as sink:
            error = transient(lambda: sink.put(b"{}"))
    assert 0.5 <= time.monotonic() - started < QUICK_SECONDS
    assert (error.kind, error.unknown_outcome, error.while_sending) == (RetryReason.TIMEOUT, True, False)
    assert "within 0.5 s" in error.message


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Fail where what is done meanwhile takes more than some megabytes at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def flood(*, first: bytes, again: bytes, sent: list[int]) -> Callable[[socket.socket], None]:
    """Return a handler that reads a request, and then says `first` and, without end, `again` as fast as it can."""

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(first)
        piece = again * (60000 // len(again) + 1)
        while True:
            sent.append(connection.send(piece))

    return handle


@pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"x-padding: " + b"a" * 60000 + b"\r\n", id="headers"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="100 Continue"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\nx-padding: 1\r\n\r\n", id="100 Continue with headers"),
        pytest.param(OK.replace(b"Length: 0", b"Length: 999999999999"), b"{" * 1000, id="body"),
        pytest.param(OK.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"), b"1\r\n{\r\n", id="chunks"),
        pytest.param(
            OK.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"),
            b"1;" + b"a" * 9000 + b"\r\n{\r\n",
            id="chunk extensions",
        ),
    ],
)
def test_the_size_of_an_answer_is_bounded(first: bytes, again: bytes) -> None:
    sent: list[int] = []
    with (
        RawServer(flood(first=first, again=again, sent=sent)) as server,
        real_sink("bucket", server.endpoint, read_timeout_seconds=120.0) as sink,
    ):
        error = transient(lambda: sink.put(b"{}"))
    assert (error.unknown_outcome, error.kind is RetryReason.TIMEOUT) == (True, False)
    assert sum(sent) < 20_000_000  # what was read, and what the system holds in between


def test_an_answer_that_is_packed_is_not_unpacked_and_not_believed() -> None:
    packer = zlib.compressobj(wbits=31)  # as gzip does it
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(400)) + packer.flush()
    head = OK.replace(b"Content-Length: 0", b"Content-Encoding: gzip\r\nContent-Length: %d" % len(packed))
    requests: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(head + packed)

    with RawServer(handle) as server, real_sink("bucket", server.endpoint) as sink, little_memory():
        error = transient(lambda: sink.put(b"{}"))
    assert "packed" in error.message
    assert b"accept-encoding: identity" in requests[0].lower()


def test_a_redirect_that_is_packed_is_not_unpacked() -> None:
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(400)) + packer.flush()
    head = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(
        packed
    )
    with (
        RawServer(answering(head + packed)) as server,
        real_sink("bucket", server.endpoint) as sink,
        little_memory(),
    ):
        error = error_of(lambda: sink.put(b"{}"))
    assert (type(error), error.status) == (TargetError, 302)


def test_cookies_are_neither_parsed_nor_sent_again() -> None:
    """The standard library parses some in a time that grows with the square of their length, and fails on others."""
    requests: list[bytes] = []
    slow = b"".join(b"Set-Cookie2: " + b"a," * 32000 + b"\r\n" for _ in range(3))
    odd = b"Set-Cookie: b=c; max-age=" + b"9" * 3000 + b"\r\n"

    def handle(connection: socket.socket) -> None:
        while True:
            requests.append(read_request(connection))
            connection.sendall(OK.replace(b"\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\n" + odd + slow, 1))

    with RawServer(handle) as server, real_sink("bucket", server.endpoint) as sink:
        started = time.thread_time()
        assert [sink.put(b"{}") for _ in range(2)] == [200, 200]
        assert time.thread_time() - started < 1.0
    assert len(requests) == 2
    assert b"\r\ncookie:" not in requests[1].lower()


# -- answers on a kept connection


def test_an_interim_answer_is_not_taken_for_the_answer_nor_the_true_one_for_the_next_requests() -> None:
    accepted = threading.Semaphore(0)

    def handle(connection: socket.socket) -> None:
        accepted.release()
        read_request(connection)
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        with contextlib.suppress(OSError):
            connection.sendall(OK)
            read_request(connection)

    with RawServer(handle) as server, real_sink("bucket", server.endpoint, read_timeout_seconds=1.0) as sink:
        for _ in range(2):
            error = transient(lambda: sink.put(b"{}"))
            assert (error.status, error.unknown_outcome) == (103, True)
        assert accepted.acquire(timeout=QUICK_SECONDS)
        assert accepted.acquire(timeout=QUICK_SECONDS)  # the second request came on a connection of its own


def test_an_answer_before_the_whole_request_was_read_is_not_believed() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RD)
        time.sleep(0.2)
        connection.close()

    with RawServer(handle, receive_buffer=4096) as server, real_sink("bucket", server.endpoint) as sink:
        error = transient(lambda: sink.put(bytes(32 * 1024 * 1024)))
    assert error.unknown_outcome is True


def kept(requests: list[int]) -> Callable[[socket.socket], None]:
    """Return a handler that answers well, and notes for each request the connection's number."""

    def handle(connection: socket.socket) -> None:
        number = id(connection)
        while True:
            read_request(connection)
            requests.append(number)
            connection.sendall(OK)

    return handle


@pytest.mark.parametrize(("seconds", "count"), [(29.0, 1), (31.0, 2)])
def test_a_connection_that_was_idle_for_long_is_not_used_again(seconds: float, count: int) -> None:
    requests: list[int] = []
    clock = FakeClock()
    with RawServer(kept(requests)) as server:
        sink = OssSink(settings("bucket", server.endpoint), ENVIRONMENT, max_connections=2, clock=clock)
        assert sink.put(b"{}") == 200
        clock.advance(seconds)
        assert sink.put(b"{}") == 200
        sink.close()
    assert len(set(requests)) == count


def test_the_system_asks_whether_a_silent_peer_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[socket.socket] = []
    create = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        seen.append(self)
        create(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    with RawServer(kept([])) as server, real_sink("bucket", server.endpoint, write_timeout_seconds=45.0) as sink:
        sink.put(b"{}")
        (sock,) = seen
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        wanted = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 45000}
        for name, value in wanted.items():
            if hasattr(socket, name):
                assert sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


# -- certificates and addresses


class Secured(NamedTuple):
    """A service behind TLS, whose certificate no system knows."""

    endpoint: str
    ca_file: str
    requests: list[int]


@contextlib.contextmanager
def tls_server(tmp_path: Path, name: str, handle: Callable[[socket.socket], None] | None = None) -> Iterator[Secured]:
    """Serve with a certificate for `name`, issued by an authority of its own."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    requests: list[int] = []

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            (handle or kept(requests))(wrapped)

    with RawServer(serve) as server:
        yield Secured(server.endpoint.replace("http:", "https:"), str(ca_file), requests)


def test_the_certificates_of_ca_file_are_trusted(tmp_path: Path) -> None:
    with (
        tls_server(tmp_path, "127.0.0.1") as server,
        real_sink("bucket", server.endpoint, ca_file=server.ca_file) as sink,
    ):
        assert [sink.put(b"{}") for _ in range(2)] == [200, 200]
    assert len(set(server.requests)) == 1


@pytest.mark.parametrize("with_another", [False, True])
def test_a_certificate_of_an_unknown_authority_is_not_accepted(tmp_path: Path, with_another: bool) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    ca_file = str(tmp_path / "another.pem") if with_another else ""
    with tls_server(tmp_path, "127.0.0.1") as server, real_sink("bucket", server.endpoint, ca_file=ca_file) as sink:
        error = transient(lambda: sink.put(b"{}"))
    assert "certificate verify failed" in error.message
    assert error.unknown_outcome is False
    assert server.requests == []


def test_a_certificate_of_another_host_is_not_accepted(tmp_path: Path) -> None:
    with (
        tls_server(tmp_path, "elsewhere.example") as server,
        real_sink("bucket", server.endpoint, ca_file=server.ca_file) as sink,
    ):
        error = transient(lambda: sink.put(b"{}"))
    assert (error.kind, error.unknown_outcome) == (RetryReason.NETWORK, False)
    assert server.requests == []


def test_with_a_ca_file_no_other_authority_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    with tls_server(tmp_path, "127.0.0.1") as server:
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", server.ca_file)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", server.ca_file)
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
        with real_sink("bucket", server.endpoint, ca_file=str(tmp_path / "another.pem")) as sink:
            error = transient(lambda: sink.put(b"{}"))
    assert "certificate verify failed" in error.message
    assert server.requests == []


def test_a_ca_file_without_certificates_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SettingsError, match=r"ca_file for https://h = .*ca\.pem"):
        OssSink(settings("b", "https://h", ca_file=str(tmp_path / "ca.pem")), ENVIRONMENT, max_connections=1)


def test_the_write_time_out_bounds_the_sending_over_tls_in_all(tmp_path: Path) -> None:
    def read_slowly(connection: socket.socket) -> None:
        while connection.recv(4096):
            time.sleep(0.01)  # a piece is read in time, the whole is not

    with (
        tls_server(tmp_path, "127.0.0.1", read_slowly) as server,
        real_sink("bucket", server.endpoint, ca_file=server.ca_file, write_timeout_seconds=0.5) as sink,
    ):
        started = time.monotonic()
        error = transient(lambda: sink.put(bytes(32 * 1024 * 1024)))
    assert time.monotonic() - started < QUICK_SECONDS
    assert (error.kind, error.while_sending) == (RetryReason.TIMEOUT, True)


def has_ipv6() -> bool:
    """Return whether this machine has the loopback address of IPv6."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as one:
        one.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="the machine has no ::1")
def test_an_endpoint_may_be_an_ipv6_address(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_RDWR)

    def forward(connection: socket.socket) -> None:
        with connection, socket.create_connection(("127.0.0.1", emulator.port)) as upstream:
            back = thread(pump, upstream, connection)
            pump(connection, upstream)
            back.join(QUICK_SECONDS)

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener, ThreadPoolExecutor(1) as pool:
        served = pool.submit(lambda: forward(listener.accept()[0]))
        with real_sink(bucket, f"http://[::1]:{listener.getsockname()[1]}") as sink:
            assert sink.put(put_body(index, a=[1, 0])) == 200
        served.result(QUICK_SECONDS)
    assert list(emulator.dump(bucket, index)) == ["a"]


# -- through a proxy


def test_the_proxy_and_login_of_the_environment_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login worker password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    requests: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        requests.append(read_request(connection))
        connection.sendall(OK)

    with RawServer(handle) as server, real_sink("bucket", server.endpoint) as sink:
        assert sink.put(b"{}") == 200
    assert requests[0].startswith(b"POST /?putVectors")  # a proxy would be sent the whole address
    assert b"authorization: oss4" in requests[0].lower()


@pytest.fixture(params=["http", "https"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[HttpProxy, Secured]]:
    """A service that is reached through a proxy with a login, by HTTP and through a tunnel."""
    requests: list[int] = []
    with HttpProxy(PLAIN_LOGIN) as proxy:
        if request.param == "https":
            with tls_server(tmp_path, "127.0.0.1") as server:
                yield proxy, server
        else:
            with RawServer(kept(requests)) as plain:
                yield proxy, Secured(plain.endpoint, "", requests)


@contextlib.contextmanager
def proxied_sink(proxy: HttpProxy, server: Secured, login: str = LOGIN, **changes: Any) -> Iterator[OssSink]:
    """Yield a sink that reaches the service through the proxy."""
    given = {"proxy_url": proxy.url(login), "ca_file": server.ca_file, **changes}
    with real_sink("bucket", server.endpoint, **given) as sink:
        yield sink


def test_requests_pass_through_a_proxy_with_its_login(proxied: tuple[HttpProxy, Secured]) -> None:
    proxy, server = proxied
    with proxied_sink(proxy, server) as sink:
        assert [sink.put(b"{}") for _ in range(2)] == [200, 200]
    assert len(server.requests) == 2
    tunnelled = server.endpoint.startswith("https")
    assert [head.split(b" ")[0] for head in proxy.heads] == ([b"CONNECT"] if tunnelled else [b"POST", b"POST"])
    assert all(
        (b"authorization: OSS4" in head.replace(b"Authorization", b"authorization")) != tunnelled
        for head in proxy.heads
    )


def test_a_login_of_any_characters_is_sent_to_the_proxy_in_utf_8() -> None:
    requests: list[int] = []
    with (
        HttpProxy("wörker:Ω-pässword") as proxy,
        RawServer(kept(requests)) as plain,
        proxied_sink(proxy, Secured(plain.endpoint, "", requests), "wörker:%CE%A9-pässword") as sink,
    ):
        assert sink.put(b"{}") == 200


def test_a_body_through_a_proxy_has_the_write_time_out(proxied: tuple[HttpProxy, Secured]) -> None:
    proxy, server = proxied
    with proxied_sink(proxy, server, connect_timeout_seconds=30.0, write_timeout_seconds=1.0) as sink:
        assert sink.put(b"{}") == 200
        with proxy.stalled():
            error = transient(lambda: sink.put(bytes(32 * 1024 * 1024)))
    assert (error.kind, error.unknown_outcome, error.while_sending) == (RetryReason.TIMEOUT, True, True)
    assert "within 1 s" in error.message


def test_an_answer_through_a_proxy_has_the_read_time_out(proxied: tuple[HttpProxy, Secured]) -> None:
    proxy, server = proxied
    with proxied_sink(proxy, server, read_timeout_seconds=0.4) as sink:
        assert sink.put(b"{}") == 200
        with proxy.stalled():
            error = transient(lambda: sink.put(b"{}"))
    assert (error.kind, error.unknown_outcome, error.while_sending) == (RetryReason.TIMEOUT, True, False)


@pytest.mark.parametrize("size", [2, 32 * 1024 * 1024])
def test_a_request_through_a_proxy_is_cut(proxied: tuple[HttpProxy, Secured], size: int) -> None:
    proxy, server = proxied
    threads: list[int] = []

    def put() -> Any:
        threads.append(threading.get_ident())
        return transient(lambda: sink.put(bytes(size)))

    with proxied_sink(proxy, server) as sink, ThreadPoolExecutor(1) as pool:
        assert pool.submit(sink.put, b"{}").result(QUICK_SECONDS) == 200
        with proxy.stalled():
            future = pool.submit(put)
            started = time.monotonic()
            while not future.done() and time.monotonic() - started < QUICK_SECONDS:
                if threads:
                    sink.abort(threads[0])
                time.sleep(0.05)
            assert future.done()
    assert future.result().kind is RetryReason.NETWORK


@pytest.mark.parametrize("size", [2, 32 * 1024 * 1024])
def test_a_request_through_a_proxy_with_tls_of_its_own_is_cut(tmp_path: Path, size: int) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    both, threads = tmp_path / "both.pem", queue.Queue[int]()

    def put() -> Any:
        threads.put(threading.get_ident())
        return transient(lambda: sink.put(bytes(size)))

    with tls_server(tmp_path, "127.0.0.1") as server, HttpProxy(PLAIN_LOGIN, tls=context) as proxy:
        both.write_bytes(Path(server.ca_file).read_bytes() + authority.cert_pem.bytes())
        with proxied_sink(proxy, server, ca_file=str(both)) as sink, ThreadPoolExecutor(1) as pool:
            assert pool.submit(sink.put, b"{}").result(QUICK_SECONDS) == 200
            with proxy.stalled():
                future = pool.submit(put)
                thread_id = threads.get(timeout=QUICK_SECONDS)
                exchanges, before = sink._exchanges._by_thread, (None, Phase.CONNECTING)
                wait_for(lambda: getattr(exchanges.get(thread_id), "phase", None) not in before, "it is sent")
                sink.abort(thread_id)
                assert future.result(QUICK_SECONDS).kind is RetryReason.NETWORK


def test_a_request_that_is_cut_sends_nothing_outside_its_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own thread may be about to send, in the moment in which another one cuts it."""
    outside: list[bool] = []
    shutdown = socket.socket.shutdown

    def noted(self: socket.socket, how: int) -> None:
        if isinstance(self, ssl.SSLSocket) and not self.server_side:
            outside.append(self.version() is None)
        shutdown(self, how)

    with (
        tls_server(tmp_path, "127.0.0.1") as server,
        real_sink("bucket", server.endpoint, ca_file=server.ca_file) as sink,
    ):
        assert sink.put(b"{}") == 200
        with sink._exchanges.open() as exchange:
            manager: Any = sink._connections._session.get_adapter(server.endpoint)
            pool = manager.poolmanager.connection_from_url(server.endpoint)
            connection: Any = pool._get_conn()
            exchange.connection = connection
            monkeypatch.setattr(socket.socket, "shutdown", noted)
            sink.abort(threading.get_ident())
            monkeypatch.undo()
            connection.close()
    assert outside == [False]


def test_a_proxy_that_refuses_the_login_blocks_and_no_secret_is_said(proxied: tuple[HttpProxy, Secured]) -> None:
    proxy, server = proxied
    with proxied_sink(proxy, server, login="worker%40corp:wrong%2Fone") as sink:
        error = error_of(lambda: sink.put(b"{}"))
    assert isinstance(error, TargetError)
    # Without a tunnel nobody has seen the request, whose records are not to be blamed.
    has_tunnel = server.endpoint.startswith("https")
    assert (error.block, error.status) == (BlockReason.TARGET, 0 if has_tunnel else 407)
    assert ("407" in str(error), "oss.proxy_url" in error.message) == (True, True)
    assert "wrong" not in str(error)
    assert server.requests == []


def test_a_proxy_that_is_away_is_transient_and_nothing_left(proxied: tuple[HttpProxy, Secured]) -> None:
    proxy, server = proxied
    proxy.close()
    with proxied_sink(proxy, server) as sink:
        error = transient(lambda: sink.put(b"{}"))
    assert (error.kind, error.unknown_outcome) == (RetryReason.NETWORK, False)
    assert "ss/word" not in str(error)
    assert "ss%2Fword" not in str(error)


@pytest.mark.parametrize(("status", "blocks"), [(403, True), (502, False), (503, False), (429, False), (302, True)])
def test_what_a_proxy_says_to_connect_is_its_own_word(tmp_path: Path, status: int, blocks: bool) -> None:
    with HttpProxy() as proxy, tls_server(tmp_path, "127.0.0.1") as server:
        proxy.answer = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status
        with proxied_sink(proxy, server, login="") as sink:
            error = error_of(lambda: sink.put(b"{}"))
    assert isinstance(error, TargetError) == blocks
    assert "oss.proxy_url" in error.message
    assert getattr(error, "unknown_outcome", False) is False


def test_a_proxy_that_drips_its_answer_to_connect_has_the_connect_time_out(tmp_path: Path) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        for _ in range(200):
            connection.sendall(b"H")
            time.sleep(0.05)

    with RawServer(handle) as proxy:
        started = time.monotonic()
        with real_sink("bucket", "https://127.0.0.1:1", proxy_url=proxy.endpoint, connect_timeout_seconds=0.5) as sink:
            error = transient(lambda: sink.put(b"{}"))
    assert time.monotonic() - started < QUICK_SECONDS
    assert (error.kind, error.unknown_outcome) == (RetryReason.TIMEOUT, False)


def test_a_proxy_reaches_the_service_by_name(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    with (
        HttpProxy(resolve=("127.0.0.1", emulator.port)) as proxy,
        real_sink(bucket, "http://service.example", allow_http=True, proxy_url=proxy.url()) as sink,
    ):
        assert sink.put(put_body(index, a=[1, 0])) == 200
        assert sink.describe(index).dimension == 2
    assert proxy.heads[0].startswith(f"POST http://{bucket}-1234567890.service.example/?putVectors".encode())
    assert list(emulator.dump(bucket, index)) == ["a"]


def test_a_literal_endpoint_through_a_proxy_keeps_the_host_header(emulator: Emulator) -> None:
    bucket, index = emulator.new_index(2)
    with HttpProxy() as proxy, real_sink(bucket, f"http://127.0.0.1:{emulator.port}", proxy_url=proxy.url()) as sink:
        assert sink.put(put_body(index, a=[1, 0])) == 200
    assert list(emulator.dump(bucket, index)) == ["a"]


# -- odd answers, and what is unforeseen


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n",
        b"HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\xff\xfe: \xff\r\n: :\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"9" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"",
        b"\r\n" * 100,
    ],
)
def test_an_answer_that_is_no_answer_is_transient(answer: bytes) -> None:
    with (
        RawServer(answering(answer)) as server,
        real_sink("bucket", server.endpoint, read_timeout_seconds=1.0) as sink,
    ):
        assert transient(lambda: sink.put(b"{}")).unknown_outcome is True


def test_what_is_unforeseen_costs_the_request_and_tells_its_place_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr("worker.oss.sink.error_of", fail)
    with RawServer(kept([])) as server, real_sink("bucket", server.endpoint) as sink:
        error = transient(lambda: sink.put(b"{}"))
    assert "unforeseen KeyError at test_connections.py:" in error.message
    assert "secret" not in error.message
    assert error.unknown_outcome is True


@pytest.mark.parametrize("token", ["secret\ntoken", " secret", "\u00a0secret", "secret\u2028"])
def test_credentials_that_no_header_takes_block_and_are_not_said(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """A provider of another package may give such, which ours refuses before."""
    bucket, index = emulator.new_index(2)
    given = Provider(lambda: Credentials(emulator.access_key_id, emulator.access_key_secret, token))
    monkeypatch.setattr("worker.oss.sink.credentials_provider", lambda *_: given)
    sink = OssSink(settings(bucket, emulator.endpoint), ENVIRONMENT, max_connections=1)
    error = error_of(lambda: sink.put(put_body(index, a=[1, 0])))
    sink.close()
    assert isinstance(error, TargetError)
    assert error.block is BlockReason.CREDENTIALS
    assert "secret" not in str(error)
