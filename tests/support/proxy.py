"""A TCP proxy on the loopback address that cuts, delays and swallows, for what a network does between two processes."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

_CHUNK = 65536
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
        """Take everything and forward nothing, as a firewall does that drops packets; what was taken goes on after."""
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
        self._acceptor.join()

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
            both = threading.Barrier(2)
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target, both), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, both: threading.Barrier) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_CHUNK):
                self._open_road.wait()
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        both.wait()  # close once nobody uses it, so that its number is not another connection's meanwhile
        with self._lock:
            self._sockets.discard(source)
        source.close()


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        one.shutdown(socket.SHUT_RDWR)
