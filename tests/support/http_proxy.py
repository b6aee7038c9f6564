"""An HTTP proxy on the loopback address, as companies have them: forwards HTTP, tunnels by CONNECT, may ask for a login."""

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Self
from urllib.parse import urlsplit

_CHUNK = 65536
_SECONDS = 20.0


class HttpProxy:
    """Serves until it is closed. `login` is "name:password", or "" where none is asked for.

    `resolve` is where every connection goes to, whatever its name, as (host, port); None goes where the name says.
    `heads` are the requests as they came, without bodies. `answer` is given in place of a connection, where it is set.
    With `tls` it is spoken to by TLS.
    """

    def __init__(
        self, login: str = "", resolve: tuple[str, int] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.heads: list[bytes] = []
        self.answer: bytes = b""
        self._wanted = base64.b64encode(login.encode()).decode() if login else ""
        self._resolve = resolve
        self._tls = tls
        self._road = threading.Event()
        self._road.set()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="http-proxy", daemon=True)
        self._acceptor.start()

    def url(self, login: str = "") -> str:
        """The setting `oss.proxy_url` for it."""
        scheme = "https" if self._tls is not None else "http"
        return f"{scheme}://{login}@127.0.0.1:{self.port}" if login else f"{scheme}://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Read nothing more from clients, and give them nothing."""
        self._road.clear()
        try:
            yield
        finally:
            self._road.set()

    def close(self) -> None:
        """End everything."""
        self._road.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in [self._acceptor, *self._threads]:
            thread.join(_SECONDS)
        for one in sockets:
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, one: socket.socket) -> socket.socket:
        with self._lock:
            self._sockets.add(one)
        return one

    def _start(self, target: Callable[..., None], *sockets: socket.socket) -> None:
        thread = threading.Thread(target=target, args=sockets, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                # A small window, so that a body is not swallowed by the system's buffers while the proxy is stalled.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                self._start(self._serve, self._keep(client))

    def _serve(self, client: socket.socket) -> None:
        upstream: socket.socket | None = None
        with contextlib.suppress(OSError):
            if self._tls is not None:
                client = self._keep(self._tls.wrap_socket(client, server_side=True))
            while True:
                self._road.wait(_SECONDS)
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = client.recv(_CHUNK)
                    if not piece:
                        return
                    data += piece
                head, _, rest = data.partition(b"\r\n\r\n")
                self.heads.append(head)
                refusal = self._refusal(head)
                if refusal:
                    client.sendall(refusal)
                    client.shutdown(socket.SHUT_RDWR)
                    return
                method, target, _ = head.split(b"\r\n")[0].split(b" ")
                if method == b"CONNECT":
                    host, _, port = target.decode().rpartition(":")
                    upstream = self._connect(host.strip("[]"), int(port))
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    self._tunnel(client, upstream)
                    return
                parts = urlsplit(target.decode())
                if upstream is None:
                    upstream = self._connect(parts.hostname or "", parts.port or 80)
                    self._start(self._pump, upstream, client)
                self._forward(client, upstream, head, rest, parts.query)

    def _refusal(self, head: bytes) -> bytes:
        if self._wanted and f"proxy-authorization: basic {self._wanted}".lower().encode() not in head.lower():
            return (
                b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
        return self.answer

    def _connect(self, host: str, port: int) -> socket.socket:
        return self._keep(socket.create_connection(self._resolve or (host, port), timeout=_SECONDS))

    def _forward(self, client: socket.socket, upstream: socket.socket, head: bytes, rest: bytes, query: str) -> None:
        lines = head.split(b"\r\n")
        kept = [line for line in lines[1:] if not line.lower().startswith(b"proxy-")]
        upstream.sendall(b"\r\n".join([f"POST /?{query} HTTP/1.1".encode(), *kept]) + b"\r\n\r\n" + rest)
        length = next((int(line[15:]) for line in kept if line.lower().startswith(b"content-length:")), 0)
        left = length - len(rest)
        while left > 0:
            self._road.wait(_SECONDS)
            piece = client.recv(min(left, _CHUNK))
            if not piece:
                raise ConnectionError
            upstream.sendall(piece)
            left -= len(piece)

    def _tunnel(self, client: socket.socket, upstream: socket.socket) -> None:
        self._start(self._pump, upstream, client)
        self._pump(client, upstream)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        source.settimeout(None)
        with contextlib.suppress(OSError):
            while True:
                self._road.wait(_SECONDS)
                piece = source.recv(_CHUNK)
                if not piece:
                    break
                self._road.wait(_SECONDS)
                target.sendall(piece)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
