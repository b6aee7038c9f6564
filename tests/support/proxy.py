"""A TCP proxy on the loopback address that cuts, delays and swallows, for what a network does between two processes."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from tests.support.bounded import join, thread

_CHUNK = 65536
_HOLD_S = 600.0  # the longest that what was taken is held back, beyond any test
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to `port` on 127.0.0.1; its own is `Proxy.port`, a free one unless given."""

    def __init__(self, upstream: int, port: int = 0) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.delay_seconds = 0.0
        self._open_road = threading.Event()
        self._open_road.set()
        self._closed = False
        self._refuse = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._acceptor = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._acceptor.start()

    def cut(self) -> int:
        """Reset all connections; returns how many there were."""
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _reset(one)
        return len(sockets) // 2

    @contextmanager
    def swallowing(self) -> Iterator[None]:
        """Accept everything and forward nothing, as a firewall does that drops packets; what was accepted is forwarded afterwards."""
        self._open_road.clear()
        try:
            yield
        finally:
            self._open_road.set()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Reset all connections and refuse new ones, as a host does whose process is gone."""
        self._refuse = True
        self.cut()
        try:
            yield
        finally:
            self._refuse = False

    @contextmanager
    def delaying(self, seconds: float) -> Iterator[None]:
        """Hold every piece back so long."""
        self.delay_seconds = seconds
        try:
            yield
        finally:
            self.delay_seconds = 0.0

    def close(self) -> None:
        """End everything."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._open_road.set()
        self.cut()
        join(self._acceptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refuse:
                _reset(client)
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream), timeout=5)
            except OSError:
                _reset(client)
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            ended: list[socket.socket] = []
            thread(self._pump, self._requests(client), client, server, ended)
            thread(self._pump, _pieces(server), server, client, ended)

    def _requests(self, client: socket.socket) -> Iterator[bytes]:
        """Yield what a client sends."""
        return _pieces(client)

    def _pump(
        self, pieces: Iterator[bytes], source: socket.socket, target: socket.socket, ended: list[socket.socket]
    ) -> None:
        """Forward what comes from `source`; the last of a connection's two closes both, which have `ended` by then."""
        with contextlib.suppress(OSError):
            for piece in pieces:
                self._open_road.wait(_HOLD_S)
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        # Once no thread uses it, so that its number is not another connection's meanwhile.
        with self._lock:
            ended.append(source)
            closing = list(ended) if len(ended) == 2 else []
            self._sockets.difference_update(closing)
        for one in closing:
            one.close()


@dataclass
class Held:
    """Requests that are delayed: `seen` is set once there is one, and `release` forwards them."""

    api_key: int
    seen: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


class KafkaProxy(Proxy):
    """A proxy of Kafka's protocol, without TLS, that can note and hold back one kind of requests."""

    _held: Held | None = None
    _noted: tuple[int, list[bytes]] | None = None

    @contextmanager
    def noting(self, api_key: int) -> Iterator[list[bytes]]:
        """Note the requests with that key of Kafka's protocol. They are forwarded, whatever becomes of their client."""
        noted: list[bytes] = []
        self._noted = api_key, noted
        try:
            yield noted
        finally:
            self._noted = None

    @contextmanager
    def holding(self, api_key: int) -> Iterator[Held]:
        """Hold back the requests with that key of Kafka's protocol, and what its connection sends after it."""
        self._held = held = Held(api_key)
        try:
            yield held
        finally:
            self._held = None
            held.release.set()

    def _requests(self, client: socket.socket) -> Iterator[bytes]:
        """Yield whole requests: four bytes of length, and two of the key first of all that follows."""
        received = b""
        for piece in _pieces(client):
            received += piece
            while len(received) >= 6 and len(received) >= (size := 4 + int.from_bytes(received[:4])):
                held, noted = self._held, self._noted
                if noted is not None and int.from_bytes(received[4:6]) == noted[0]:
                    noted[1].append(received[:size])
                if held is not None and int.from_bytes(received[4:6]) == held.api_key:
                    held.seen.set()
                    held.release.wait(_HOLD_S)
                yield received[:size]
                received = received[size:]


def _pieces(source: socket.socket) -> Iterator[bytes]:
    while piece := source.recv(_CHUNK):
        yield piece


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        one.shutdown(socket.SHUT_RDWR)
