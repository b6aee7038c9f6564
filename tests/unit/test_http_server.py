"""The HTTP port under clients that are slow, large, many, or make no sense. Real sockets, and a clock that is set."""

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.unit.samples import FakeClock
from worker.telemetry import http_request
from worker.telemetry.http_request import Answer, Request, plain
from worker.telemetry.http_server import HttpServer, Limits

LIMIT_S = 30.0
Open = Callable[..., HttpServer]


def answered(request: Request) -> Answer:
    """Answer with what was asked for."""
    return plain(HTTPStatus.OK, f"{request.method} {request.path} {request.accept}")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def serve(clock: FakeClock) -> Iterator[Open]:
    """Start servers, and stop them afterwards."""
    started: list[HttpServer] = []

    def start(answer: Callable[[Request], Answer] = answered, **limits: int) -> HttpServer:
        server = HttpServer(
            ("127.0.0.1", 0),
            answer,
            is_cheap=lambda path: path == "/cheap",
            tick=lambda: None,
            clock=clock,
            name="test",
            limits=Limits()._replace(**limits),
        )
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


def connected(server: HttpServer, sent: bytes = b"") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)
    if sent:
        sock.sendall(sent)
    return sock


def everything(sock: socket.socket) -> bytes:
    """Return what comes until the other side closes; a reset ends it too."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def ask(server: HttpServer, request: bytes) -> bytes:
    with connected(server, request) as sock:
        return everything(sock)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# -- answers


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /x HTTP/1.1\r\nAccept: a\r\n\r\n", 200, b"GET /x a\n"),
        (b"\r\n\r\nGET /x HTTP/1.0\n\n", 200, b"GET /x \n"),
        (b"HEAD /x HTTP/1.1\r\n\r\n", 200, b""),
        (b"POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405, b"allowed are GET, HEAD\n"),
        (b"BREW /x HTTP/1.1\r\n\r\n", 405, b"allowed are GET, HEAD\n"),
        (b"GET /x\r\n", 400, b"the first line is not of the form GET /path HTTP/1.1\n"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, b"the first line is not of the form GET /path HTTP/1.1\n"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, b"HTTP/1.0 and HTTP/1.1 are understood\n"),
    ],
    ids=["GET", "old and after empty lines", "HEAD", "POST", "unknown", "HTTP/0.9", "TLS", "HTTP/2"],
)
def test_every_request_gets_an_answer_and_the_connection_ends(
    serve: Open, request_: bytes, status: int, body: bytes
) -> None:
    head, _, found = ask(serve(), request_).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (status_of(head), found, b"Connection: close" in lines) == (status, body, True)
    assert (b"Allow: GET, HEAD" in lines) == (status == 405)


def test_a_body_that_nobody_wants_does_not_cost_the_client_its_answer(serve: Open) -> None:
    server = serve()
    with connected(server, b"POST / HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n") as sock:
        sock.sendall(b"x" * 20_000_000)
        assert status_of(everything(sock)) == 405


def test_a_page_that_fails_is_a_500_each_time_and_logged_once(serve: Open, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Request) -> Answer:
        raise ValueError("no figures")

    server = serve(fail)
    answers = [ask(server, b"GET / HTTP/1.1\r\n\r\n") for _ in range(3)]
    assert [status_of(answer) for answer in answers] == [500, 500, 500]
    assert answers[0].endswith(b"\r\n\r\nthis page could not be made; the log has the error\n")
    assert [record.getMessage() for record in caplog.records] == ["an answer could not be made"]


def test_a_probe_waits_for_one_page_at_most(serve: Open) -> None:
    asked: list[str] = []
    entered, release = threading.Event(), threading.Event()

    def answer(request: Request) -> Answer:
        asked.append(request.path)
        entered.set()
        release.wait(LIMIT_S)
        return plain(HTTPStatus.OK, "")

    server = serve(answer)
    with contextlib.ExitStack() as stack:
        stack.enter_context(connected(server, b"GET /page HTTP/1.1\r\n\r\n"))
        assert entered.wait(LIMIT_S)
        for path in (b"/page", b"/page", b"/page", b"/cheap"):
            stack.enter_context(connected(server, b"GET %s HTTP/1.1\r\n\r\n" % path))
        release.set()
        wait_for(lambda: len(asked) == 5)
    # The turn in which they are accepted answers none, so that the probe is among those that the next one sorts.
    assert asked[1] == "/cheap"


# -- bounds


def slow(server: HttpServer, count: int) -> list[socket.socket]:
    return [connected(server, b"GET / HTTP/1.1\r\nA") for _ in range(count)]


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    """Let this process have as many as the test's own side needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.usefixtures("_many_descriptors")
def test_eleven_hundred_slow_clients_leave_descriptors_and_the_probe_its_answer(serve: Open) -> None:
    server, before = serve(), descriptors()
    clients = slow(server, 1100)
    try:
        assert [status_of(ask(server, b"GET /%d HTTP/1.1\r\n\r\n" % number)) for number in range(20)] == [200] * 20
        assert server.open_connections <= Limits().connections
        assert descriptors() - before <= len(clients) + Limits().connections
    finally:
        for client in clients:
            client.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def test_clients_with_headers_of_megabytes_take_no_memory(serve: Open) -> None:
    """170 of them, 99 headers of 64 KB each; a server that reads them all holds 1.1 GB."""
    server, before = serve(), resident_bytes()
    header = b"A: " + b"a" * 65_000 + b"\r\n"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(server, b"GET / HTTP/1.1\r\n")) for _ in range(170)]
        for client in clients:
            client.settimeout(0.05)
            with contextlib.suppress(OSError):  # refused, and closed
                for _ in range(99):
                    client.sendall(header)
        assert status_of(ask(server, b"GET / HTTP/1.1\r\n\r\n")) == 200
        assert resident_bytes() - before < 50_000_000


def test_a_head_beyond_the_limit_is_refused_as_soon_as_it_is(serve: Open) -> None:
    server = serve(head_bytes=1000)
    assert status_of(ask(server, b"GET / HTTP/1.1\r\nA: " + b"a" * 900 + b"\r\n\r\n")) == 200
    assert status_of(ask(server, b"GET / HTTP/1.1\r\nA: " + b"a" * 1000)) == 431
    assert status_of(ask(server, b"G" + b"a" * 1000)) == 431


def test_a_request_has_one_time_for_all_of_it_however_it_drips(serve: Open, clock: FakeClock) -> None:
    server = serve()
    with connected(server) as silent, connected(server, b"GET / HT") as dripping:
        wait_for(lambda: server.open_connections == 2)
        clock.pass_by(4.9)
        dripping.sendall(b"TP/1.1\r\n")
        time.sleep(0.05)
        assert server.open_connections == 2
        clock.pass_by(0.2)
        assert status_of(everything(dripping)) == 408
        assert everything(silent) == b""


def test_a_client_that_does_not_read_is_left(serve: Open, clock: FakeClock) -> None:
    server = serve(lambda _: Answer(HTTPStatus.OK, "text/plain", b"x" * 20_000_000))
    with connected(server, b"GET / HTTP/1.1\r\n\r\n") as sock:
        assert sock.recv(1) == b"H"
        clock.pass_by(9.9)
        time.sleep(0.05)
        assert server.open_connections == 1
        clock.pass_by(0.2)
        wait_for(lambda: server.open_connections == 0)
        assert len(everything(sock)) < 20_000_000


def test_a_large_answer_reaches_a_client_that_reads(serve: Open) -> None:
    server = serve(lambda _: Answer(HTTPStatus.OK, "text/plain", b"x" * 20_000_000))
    assert ask(server, b"GET / HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")[2] == b"x" * 20_000_000


def test_answers_that_nobody_reads_are_bounded_in_bytes(serve: Open) -> None:
    server = serve(lambda _: Answer(HTTPStatus.OK, "text/plain", b"x" * 20_000_000), answers_bytes=50_000_000)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(connected(server, b"GET / HTTP/1.1\r\n\r\n"))
            assert sock.recv(1) == b"H"
        wait_for(lambda: server.open_connections <= 2)


def test_the_oldest_that_is_still_reading_makes_room(serve: Open) -> None:
    server = serve(connections=3)
    with contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(sock) for sock in slow(server, 3))
        wait_for(lambda: server.open_connections == 3)
        assert status_of(ask(server, b"GET / HTTP/1.1\r\n\r\n")) == 200
        assert everything(first) == b""
        for sock in (second, third):
            sock.sendall(b": b\r\n\r\n")
            assert status_of(everything(sock)) == 200


def test_without_a_descriptor_left_it_waits_and_goes_on(
    serve: Open, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as sock:
        sock.settimeout(LIMIT_S)
        resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, hard))
        try:
            with contextlib.ExitStack() as stack:
                with contextlib.suppress(OSError):
                    while True:
                        stack.callback(os.close, os.dup(0))
                sock.connect(("127.0.0.1", server.port))
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                wait_for(lambda: caplog.records)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        turns = len(caplog.records)
        clock.pass_by(1.0)
        assert status_of(everything(sock)) == 200
    assert turns == 1
    assert [record.getMessage() for record in caplog.records] == ["the HTTP port cannot accept a connection"]


def test_a_client_that_resets_costs_nothing(serve: Open) -> None:
    server = serve()
    for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\n\r\n"):
        sock = connected(server, sent)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        sock.close()
    assert status_of(ask(server, b"GET / HTTP/1.1\r\n\r\n")) == 200
    wait_for(lambda: server.open_connections == 0)


def test_an_error_with_one_client_costs_that_one_alone(
    serve: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()

    def fail(_: object) -> Request:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(http_request, "parsed", fail)
    assert [ask(server, b"GET / HTTP/1.1\r\n\r\n") for _ in range(3)] == [b"", b"", b""]
    monkeypatch.undo()
    assert status_of(ask(server, b"GET / HTTP/1.1\r\n\r\n")) == 200
    assert [record.getMessage() for record in caplog.records] == ["a connection to the HTTP port failed"]


def test_an_error_in_a_turn_does_not_end_the_port(
    serve: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()

    def fail() -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(server, "_tick", fail)
    assert status_of(ask(server, b"GET / HTTP/1.1\r\n\r\n")) == 200
    wait_for(lambda: caplog.records)
    assert [record.getMessage() for record in caplog.records] == ["a turn of the HTTP port failed"]


def test_an_answer_that_takes_for_ever_does_not_keep_the_process_from_its_end(serve: Open) -> None:
    asked, over = threading.Event(), threading.Event()

    def hang(_: Request) -> Answer:
        asked.set()
        assert over.wait(LIMIT_S)
        return plain(HTTPStatus.OK, "late")

    server = serve(hang)
    client = connected(server, b"GET / HTTP/1.1\r\n\r\n")
    assert asked.wait(LIMIT_S)
    stopping = threading.Thread(target=server.stop, daemon=True)
    stopping.start()
    stopping.join(LIMIT_S / 2)
    was_stopped = not stopping.is_alive()
    over.set()
    server._thread.join(LIMIT_S)
    client.close()
    assert was_stopped
