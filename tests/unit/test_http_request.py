"""What the bytes of an HTTP request mean, and which are refused, and when."""

import contextlib
import time
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.telemetry.http_request import BadRequest, Request, parsed, plain, request_in

MOST = 100


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET /metrics HTTP/1.1", ("GET", "/metrics", "")),
        (b"GET /metrics?a=b?c HTTP/1.0\r\nHost: x", ("GET", "/metrics", "")),
        (b"GET / HTTP/1.1\nAccept: a\nACCEPT:  b  \nX: y", ("GET", "/", "a, b")),
        (b"GET http://h:9464/metrics?x HTTP/1.1", ("GET", "/metrics", "")),
        (b"GET http://h:9464 HTTP/1.1", ("GET", "/", "")),
        (b"OPTIONS * HTTP/1.1", ("OPTIONS", "*", "")),
        (b"GET / HTTP/1.1\r\nAccept: \xe9", ("GET", "/", "\xe9")),
    ],
)
def test_a_request_is_read_by_its_line_and_its_accept_header(head: bytes, expected: tuple[str, str, str]) -> None:
    assert parsed(head) == expected


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /", 400),  # HTTP/0.9
        (b"GET  / HTTP/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET /\xe9 HTTP/1.1", 400),
        (b"G(T / HTTP/1.1", 400),
        (b"PRI * HTTP/2.0", 505),
        (b"GET http://[x HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nno header", 400),
        (b"GET / HTTP/1.1\r\nA : b", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded", 400),
        (b"GET / HTTP/1.1\r\nAccept: a\rSet-Cookie: b", 400),
    ],
)
def test_what_is_no_request_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as raised:
        parsed(head)
    assert raised.value.status == status


@given(st.binary(max_size=300), st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"GET ", b"GET http://"]))
def test_whatever_bytes_come_a_request_is_read_or_refused(junk: bytes, before: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert parsed(before + junk).path is not None


def test_a_header_of_spaces_costs_no_more_than_another() -> None:
    """A pattern that tries each space as the end of the value takes a second for it."""
    head = b"GET / HTTP/1.1\r\nAccept: a" + b" " * 16_000 + b"b"
    started = time.thread_time()
    for _ in range(20):
        parsed(head)
    assert time.thread_time() - started < 1.0


@pytest.mark.parametrize(
    "received",
    [b"", b"\r\n\r\n", b"G", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nAccept: a\r\n", b"A" * MOST],
)
def test_a_request_that_is_not_whole_is_waited_for(received: bytes) -> None:
    assert request_in(bytearray(received), MOST) is None


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\n\r\n"])
@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\n\r\nand a body"])
def test_a_whole_request_is_read_as_soon_as_it_is_there(before: bytes, end: bytes) -> None:
    assert request_in(bytearray(before + b"GET /a HTTP/1.1\r\nAccept: b" + end), MOST) == Request("GET", "/a", "b")


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"\x16\x03\x01", HTTPStatus.BAD_REQUEST),  # TLS: no request begins so, and its line never ends
        (b"nonsense\r\n", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/2.0\r\n", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED),
        (b"A" * (MOST + 1), HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        (b"GET / HTTP/1.1\r\n" + b"A" * MOST, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    ],
)
def test_what_can_never_be_a_request_is_refused_before_its_end(received: bytes, status: HTTPStatus) -> None:
    with pytest.raises(BadRequest) as raised:
        request_in(bytearray(received), MOST)
    assert raised.value.status == status


def test_an_answer_of_one_line_ends_with_a_line_break() -> None:
    answer = plain(HTTPStatus.OK, "good", ("Allow", "GET"))
    assert (answer.body, answer.headers) == (b"good\n", (("Allow", "GET"),))
