"""Requests under way, one for each thread: how far each is, and how another thread cuts it."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from urllib3.connection import HTTPConnection


class Phase(Enum):
    """How far a request is."""

    CONNECTING = "connecting"  # no byte of it has left
    SENDING = "sending"
    WAITING = "waiting for the answer"  # it has all left


class Exchange:
    """One request of one thread, from before it has a connection to its answer."""

    def __init__(self) -> None:
        self.phase = Phase.CONNECTING
        self.connection: HTTPConnection | None = None
        self.is_aborted = False
        self.is_not_sent = False


class Exchanges:
    """The requests in flight by thread, so that another thread can cut one.

    `may_send` is asked just before each piece of a request is sent.
    """

    def __init__(self, may_send: Callable[[], bool] = lambda: True) -> None:
        self._may_send = may_send
        self._lock = threading.Lock()
        self._by_thread: dict[int, Exchange] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[Exchange]:
        """Begin a request of this thread."""
        exchange = Exchange()
        with self._lock:
            self._by_thread[threading.get_ident()] = exchange
        try:
            yield exchange
        finally:
            with self._lock:
                del self._by_thread[threading.get_ident()]

    def use(self, connection: HTTPConnection, phase: Phase) -> None:
        """Note the connection and phase of this thread's request. Raises `ConnectionAbortedError` if it must not be sent."""
        may_send = phase is not Phase.SENDING or self._may_send()
        with self._lock:
            exchange = self._by_thread.get(threading.get_ident())
            if exchange is None:
                return
            if not may_send:
                exchange.is_not_sent = True
                raise ConnectionAbortedError("stopped before it was sent")
            if exchange.is_aborted and phase is not Phase.WAITING:
                raise ConnectionAbortedError("aborted before it was sent")
            exchange.connection, exchange.phase = connection, phase

    def abort(self, thread_id: int) -> None:
        """Cut the thread's connection. A request that has none yet, as it still waits for credentials, is not sent."""
        with self._lock:
            exchange = self._by_thread.get(thread_id)
            if exchange is None:
                return
            exchange.is_aborted = True
            sock = exchange.connection.sock if exchange.connection is not None else None
        if sock is not None:
            _cut(sock)


def _cut(sock: Any) -> None:
    """Shut down a connection's TCP socket, below its TLS.

    `SSLSocket.shutdown` first drops the TLS layer: what the connection's own thread sends in that moment would leave
    unencrypted. And TLS in TLS, to a service through a proxy that speaks TLS, has no `shutdown` at all.
    """
    below = getattr(sock, "socket", sock)
    with contextlib.suppress(OSError):  # it was closed meanwhile
        socket.socket.shutdown(below, socket.SHUT_RDWR)
