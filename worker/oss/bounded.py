"""Connections whose requests and answers are bounded in time and size.

What bounds a request:

    connecting      `oss.connect_timeout_seconds` each for the TCP connection, a proxy's answer and the TLS handshake
    sending         `oss.write_timeout_seconds` for the headers and for the body, however slowly they are read
    waiting         `oss.read_timeout_seconds` from the last byte sent to the last byte of the answer, however slowly it comes
    the answer      `MOST_HEADER_BYTES` and `MOST_BODY_BYTES`
"""

import http.client
import io
from collections.abc import Callable
from typing import Any, Final

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from worker.oss.exchange import Exchanges, Phase

MOST_HEADER_BYTES: Final = 262144  # of an answer, with all that comes before it (100 Continue)
MOST_BODY_BYTES: Final = 1048576  # an answer has no more than one index's description, or an error
PIECE_BYTES: Final = 65536  # that are sent or read at a time
_CHUNKED_OVERHEAD: Final = 2  # for what is between the chunks of a body
_IDLE_SECONDS: Final = 30.0  # after which a kept connection is not used again: load balancers drop it silently
_INSTANT: Final = (
    0.001  # seconds, once a deadline is past: 0 would mean not to wait at all, which has errors of its own
)


class _BoundedReader(io.RawIOBase):
    """Reads from a socket, until a deadline and up to a number of bytes."""

    def __init__(self, sock: Any, clock: Callable[[], float]) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._clock = clock
        self._seconds: float = sock.gettimeout()
        self._deadline = clock() + self._seconds
        self._left = MOST_HEADER_BYTES

    def allow(self, size: int) -> None:
        """Allow so many more bytes."""
        self._left += size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self._left <= 0:
            raise ConnectionError("the answer is too large")
        try:
            self._sock.settimeout(max(_INSTANT, self._deadline - self._clock()))
            size: int | None = self._raw.readinto(memoryview(buffer)[: self._left])
        except TimeoutError:
            raise TimeoutError(f"the answer was not complete within {self._seconds:g} s") from None
        self._left -= size or 0
        return size

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    """An answer that must be complete within the socket's time-out, which bounds each read only by itself."""

    _clock: Callable[[], float]
    _most_body_bytes: int

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self._bounded = _BoundedReader(sock, self._clock)
        self.fp = io.BufferedReader(self._bounded)

    def begin(self) -> None:
        super().begin()
        self._bounded.allow(self._most_body_bytes * _CHUNKED_OVERHEAD)


class _Bounded:
    """What is mixed into urllib3's connections: time limits, the exchange of each request, and no long rest."""

    sock: Any
    _exchanges: Exchanges
    _write_timeout: float
    _clock: Callable[[], float]
    _is_connecting = False
    _used_at = 0.0

    def connect(self) -> None:
        self._note(Phase.CONNECTING)
        self._is_connecting = True
        try:
            super().connect()  # type: ignore[misc]  # it is mixed into an HTTP connection
        finally:
            self._is_connecting = False
        self._note(Phase.CONNECTING)
        self._used_at = self._clock()

    @property
    def is_connected(self) -> bool:
        """Whether it may be used for another request."""
        return bool(super().is_connected) and self._clock() - self._used_at < _IDLE_SECONDS  # type: ignore[misc]  # likewise

    def request(self, *args: Any, **kwargs: Any) -> None:
        super().request(*args, **kwargs)  # type: ignore[misc]  # likewise
        # Not reached if the sending failed: urllib3 then still looks for an answer.
        self._note(Phase.WAITING)

    def send(self, data: bytes) -> None:
        if self.sock is None:
            self.connect()
        if self._is_connecting:  # what a proxy is sent
            super().send(data)  # type: ignore[misc]  # likewise
            return
        view, deadline = memoryview(data), self._clock() + self._write_timeout
        try:
            while view:  # asks before each piece: if the process is frozen half-way, the body stays incomplete
                self._note(Phase.SENDING)
                self.sock.settimeout(max(_INSTANT, deadline - self._clock()))
                view = view[self.sock.send(view[:PIECE_BYTES]) :]
        except TimeoutError:
            raise TimeoutError(f"the request was not read within {self._write_timeout:g} s") from None

    def getresponse(self) -> Any:
        try:
            return super().getresponse()  # type: ignore[misc]  # likewise
        finally:
            self._used_at = self._clock()

    def _note(self, phase: Phase) -> None:
        self._exchanges.use(self, phase)  # type: ignore[arg-type]  # likewise


def pool_classes(
    exchanges: Exchanges, write_timeout: float, clock: Callable[[], float], most_body_bytes: int = MOST_BODY_BYTES
) -> dict[str, Any]:
    """Return urllib3's pools with connections that are bounded, noted in their exchange, and not kept for too long.

    urllib3 bounds the sending of a body by the connect time-out, which is too short for a body of megabytes. It bounds each
    read of an answer by itself, and not all of them together. It makes connections and answers of the pool's classes, so the
    limits are attributes of these.
    """
    of_response = {"_clock": staticmethod(clock), "_most_body_bytes": most_body_bytes}
    of_connection = {
        "_exchanges": exchanges,
        "_write_timeout": write_timeout,
        "_clock": staticmethod(clock),
        "response_class": type("BoundedResponse", (_BoundedResponse,), of_response),
    }
    http_class = type("HttpConnection", (_Bounded, HTTPConnection), of_connection)
    https_class = type("HttpsConnection", (_Bounded, HTTPSConnection), of_connection)
    return {
        "http": type("HttpPool", (HTTPConnectionPool,), {"ConnectionCls": http_class}),
        "https": type("HttpsPool", (HTTPSConnectionPool,), {"ConnectionCls": https_class}),
    }
