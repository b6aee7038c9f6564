"""Reading the bytes of an HTTP request, and the answer to one as a value."""

import re
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit

_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE: Final = re.compile(rf"({_NAME}) ([!-~]+) HTTP/([0-9])\.([0-9])", re.ASCII)
_HEADER: Final = re.compile(rf"({_NAME}):([^\x00-\x08\x0a-\x1f\x7f]*)", re.ASCII)


class Request(NamedTuple):
    """A request: its method, its path without the query, and its Accept header, "" where there is none."""

    method: str
    path: str
    accept: str


class Answer(NamedTuple):
    """The answer to a request; `headers` are those beside the content's type and length."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class BadRequest(Exception):
    """The request cannot be answered as it is; the message is the answer's body."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def plain(status: HTTPStatus, message: str, *headers: tuple[str, str]) -> Answer:
    """Return an answer of one line of text."""
    return Answer(status, "text/plain; charset=utf-8", f"{message}\n".encode(), headers)


def parsed(head: bytes) -> Request:
    """Return the request of its line and headers, without the empty line that ends them. Raises `BadRequest`."""
    first, *others = [line.removesuffix("\r") for line in head.decode("latin-1").split("\n")]
    method, target = _method_and_target(first)
    accepts = []
    for line in others:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "a header is not of the form name: value")
        if header[1].lower() == "accept":
            accepts.append(header[2].strip(" \t"))
    return Request(method, _path(target), ", ".join(accepts))


def request_in(received: bytearray, most: int) -> Request | None:
    """Return the request that was received, None where it is not whole; its line and headers may have `most` bytes.

    Raises `BadRequest` for what can never be a request, as soon as that is known. Empty lines before a request are
    allowed, and removed from `received`.
    """
    del received[: len(received) - len(received.lstrip(b"\r\n"))]
    if not received:
        return None
    first_line, has_line, _ = received.partition(b"\n")
    if has_line or not received[:1].isalpha():
        _method_and_target(first_line.decode("latin-1").removesuffix("\r"))
    end = _END_OF_HEAD.search(received)
    if end is not None:
        return parsed(bytes(received[: end.start()]))
    if len(received) > most:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise BadRequest(status, f"a request's line and headers may have {most} bytes")
    return None


def _method_and_target(line: str) -> tuple[str, str]:
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:  # also HTTP/0.9, which has neither version nor headers
        raise BadRequest(HTTPStatus.BAD_REQUEST, "the first line is not of the form GET /path HTTP/1.1")
    if found[3] != "1":
        raise BadRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.0 and HTTP/1.1 are understood")
    return found[1], found[2]


def _path(target: str) -> str:
    """Return the path of a target, which may be a whole URL, as a proxy sends it."""
    if not target.startswith("/"):
        try:
            target = urlsplit(target).path or "/" if "://" in target else target
        except ValueError:  # a bracket that is not closed
            raise BadRequest(HTTPStatus.BAD_REQUEST, "the first line has no path that can be read") from None
    return target.partition("?")[0]
