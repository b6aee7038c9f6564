"""A small HTTP server for probes, scrapes and a page: one thread, and a bound on the memory that a client can make it use.

Each request has a connection of its own, which is closed after the answer. The port is meant for a private network, but
whoever reaches it can open connections, send slowly, send much, and not read. So the server has these bounds:

- Connections have a limit. At the limit, the one that has waited longest for its client is closed for the next.
- A request has one time limit for all of it, and so has an answer.
- The bytes of all answers that clients have not read have a limit.
- Requests that cost little, which the probes send, are answered before the others.

No library has all of these. `http.server`, which prometheus-client brings, starts a thread for each connection and limits
neither their number nor the time of a request. waitress stops accepting at its limit, so that idle clients would keep the
probes out. uvicorn has no time limit for the head of a request. Each of the last two would be one more dependency to keep
up to date, for four paths.
"""

import contextlib
import errno
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from enum import IntEnum
from http import HTTPStatus
from typing import Final, NamedTuple

from worker.telemetry.http_request import Answer, BadRequest, Request, plain, request_in

log = logging.getLogger("worker.http_server")

METHODS: Final = ("GET", "HEAD")
_BACKLOG: Final = 128
_TURN_SECONDS: Final = 0.5  # between two checks of the deadlines, where nothing comes
_STOP_SECONDS: Final = 2.0  # for the answer that is being made; one that takes longer ends with the process
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_RECEIVED_AT_ONCE: Final = 65_536


class Limits(NamedTuple):
    """What clients may use. Each time limit counts from the start, whatever arrives meanwhile."""

    connections: int = 64
    head_bytes: int = 16_384  # the request's line and headers
    request_seconds: float = 5.0
    answer_seconds: float = 10.0
    linger_seconds: float = 1.0  # for the client to close first, so that it reads the whole answer
    answers_bytes: int = 33_554_432  # of all answers that clients have not read


class _Phase(IntEnum):
    """Where a connection is; those in an earlier phase are closed first."""

    LINGERING = 0  # the answer is sent, and what the client still sends is discarded
    READING = 1
    SENDING = 2
    WAITING = 3  # its request is read, and not answered yet


class _Connection:
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.phase = _Phase.READING
        self.deadline = deadline
        self.received = bytearray()
        self.request: Request | None = None
        self.left = memoryview(b"")
        self.answer_bytes = 0  # of its whole answer, until the last byte is sent


class HttpServer:
    """Answers requests on one address, on a thread of its own.

    `answer` is called for each GET and HEAD; whatever it raises is a 500. `is_cheap` returns whether the answer to a path
    costs little, so that it is made first. `tick` is called between requests, at least every half a second. `clock` is in
    seconds. Raises `OSError` where it cannot listen on the address.
    """

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[Request], Answer],
        *,
        is_cheap: Callable[[str], bool],
        tick: Callable[[], None],
        clock: Callable[[], float],
        name: str,
        limits: Limits = Limits(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self._answer = answer
        self._is_cheap = is_cheap
        self._tick = tick
        self._clock = clock
        self._name = name
        self._limits = limits
        self._connections: list[_Connection] = []  # the oldest first
        self._accept_again_at: float | None = None
        self._logged: set[str] = set()
        self._is_stopping = False
        self._listener = _listener(address)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._woken, self._waker = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    @property
    def open_connections(self) -> int:
        """How many connections it has now."""
        return len(self._connections)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def dead_threads(self) -> list[str]:
        """Return the thread's name if it ended although it was not asked to."""
        return [] if self._is_stopping or self._thread.is_alive() else [self._thread.name]

    def stop(self) -> None:
        """Stop answering, and close all connections."""
        self._is_stopping = True
        self._waker.send(b".")
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            return
        for connection in list(self._connections):
            self._close(connection)
        self._selector.close()
        for each in (self._listener, self._woken, self._waker):
            each.close()

    # -- one turn

    def _run(self) -> None:
        while not self._is_stopping:
            try:
                self._turn()
            except Exception:
                self._log_once("turn", "a turn of the HTTP port failed")
                time.sleep(_TURN_SECONDS)  # it may fail again at once, without end

    def _turn(self) -> None:
        can_answer = any(each.phase is _Phase.WAITING for each in self._connections)
        has_newcomer = False
        for key, _ in self._selector.select(0.0 if can_answer else _TURN_SECONDS):
            if isinstance(key.data, _Connection):
                self._guarded(key.data, self._move)
            else:
                has_newcomer |= key.fileobj is self._listener
        self._answer_some()
        if has_newcomer:
            self._accept()
        self._expire()
        self._tick()

    def _guarded(self, connection: _Connection, step: Callable[[_Connection], None]) -> None:
        """Make a step of one connection, which is closed if that fails."""
        try:
            step(connection)
        except BlockingIOError:
            pass
        except OSError:  # the client went away
            self._close(connection)
        except Exception:  # what one client does must not affect the others
            self._log_once("connection", "a connection to the HTTP port failed")
            self._close(connection)

    def _move(self, connection: _Connection) -> None:
        if connection.phase is _Phase.READING:
            self._read(connection)
        elif connection.phase is _Phase.SENDING:
            self._send(connection)
        elif not connection.sock.recv(_RECEIVED_AT_ONCE):
            self._close(connection)

    # -- a request

    def _read(self, connection: _Connection) -> None:
        most = self._limits.head_bytes
        part = connection.sock.recv(most + 1 - len(connection.received))
        if not part:
            self._close(connection)
            return
        connection.received += part
        try:
            connection.request = request_in(connection.received, self._limits.head_bytes)
        except BadRequest as error:
            self._begin_answer(connection, plain(error.status, str(error)))
            return
        if connection.request is not None:
            connection.phase = _Phase.WAITING
            connection.received.clear()
            self._selector.unregister(connection.sock)

    # -- an answer

    def _answer_some(self) -> None:
        """Answer every request that costs little, and one of the others: a probe waits for one of these at most."""
        waiting = [each for each in self._connections if each.phase is _Phase.WAITING and each.request is not None]
        waiting.sort(key=lambda each: each.request is not None and not self._is_cheap(each.request.path))
        for connection in waiting:
            request = connection.request
            if request is None:
                continue
            self._begin_answer(connection, self._answer_to(request), with_body=request.method != "HEAD")
            if not self._is_cheap(request.path):
                break

    def _answer_to(self, request: Request) -> Answer:
        if request.method not in METHODS:
            allowed = ", ".join(METHODS)
            return plain(HTTPStatus.METHOD_NOT_ALLOWED, f"allowed are {allowed}", ("Allow", allowed))
        try:
            return self._answer(request)
        except Exception as error:
            self._log_once(f"{type(error).__name__} {request.path[:100]}", "an answer could not be made")
            return plain(HTTPStatus.INTERNAL_SERVER_ERROR, "this page could not be made; the log has the error")

    def _begin_answer(self, connection: _Connection, answer: Answer, *, with_body: bool = True) -> None:
        lines = [
            f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
            f"Server: {self._name}",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            *(f"{name}: {value}" for name, value in answer.headers),
            "Connection: close",
        ]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace")
        if connection.phase is _Phase.READING:
            self._selector.unregister(connection.sock)
        connection.phase = _Phase.SENDING
        connection.deadline = self._clock() + self._limits.answer_seconds
        connection.received.clear()
        connection.left = memoryview(head + answer.body if with_body else head)
        connection.answer_bytes = len(connection.left)
        self._selector.register(connection.sock, selectors.EVENT_WRITE, connection)
        self._guarded(connection, self._send)
        self._bound_answers()

    def _send(self, connection: _Connection) -> None:
        sent = connection.sock.send(connection.left)
        connection.left = connection.left[sent:]
        if connection.left:
            return
        connection.sock.shutdown(socket.SHUT_WR)
        connection.phase = _Phase.LINGERING
        connection.deadline = self._clock() + self._limits.linger_seconds
        self._selector.modify(connection.sock, selectors.EVENT_READ, connection)

    def _bound_answers(self) -> None:
        """Close the oldest answers that are not read, until those that are left are within their limit."""
        unread = [each for each in self._connections if each.phase is _Phase.SENDING]
        size = sum(each.answer_bytes for each in unread)
        for connection in unread[:-1]:
            if size <= self._limits.answers_bytes:
                return
            size -= connection.answer_bytes
            self._close(connection)

    # -- connections

    def _accept(self) -> None:
        for _ in range(self._limits.connections):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._stop_accepting()
                return  # else the client went away before it was accepted
            sock.setblocking(False)
            if len(self._connections) >= self._limits.connections:
                self._close(min(self._connections, key=lambda each: each.phase))
            connection = _Connection(sock, self._clock() + self._limits.request_seconds)
            self._connections.append(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)
            self._guarded(connection, self._read)

    def _stop_accepting(self) -> None:
        """Accept no connection for a moment: the process has no file descriptor left, and the selector would spin."""
        self._log_once("accept", "the HTTP port cannot accept a connection")
        self._selector.unregister(self._listener)
        self._accept_again_at = self._clock() + _TURN_SECONDS

    def _expire(self) -> None:
        now = self._clock()
        for connection in [each for each in self._connections if each.deadline <= now]:
            if connection.phase is _Phase.READING and connection.received:
                seconds = self._limits.request_seconds
                self._begin_answer(connection, plain(HTTPStatus.REQUEST_TIMEOUT, f"a request may take {seconds:g} s"))
            elif connection.phase is not _Phase.WAITING:
                self._close(connection)
        if self._accept_again_at is not None and now >= self._accept_again_at:
            self._accept_again_at = None
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _close(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        with contextlib.suppress(KeyError, ValueError):  # it waits for its answer, or is closed already
            self._selector.unregister(connection.sock)
        connection.sock.close()

    def _log_once(self, what: str, message: str) -> None:
        """Log an error with its traceback, each kind once: a client that repeats its request does not fill the log."""
        if what not in self._logged and len(self._logged) < self._limits.connections:
            self._logged.add(what)
            log.exception(message)  # noqa: LOG004 - it is called where an exception is handled


def _listener(address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
