"""Connections to the service: bounded in time and size, cut from other threads, with and without a proxy.

The HTTP client is a `requests.Session` with one adapter, which gives it urllib3's pools with connections of our own. The
session sends a request and nothing more: it retries nothing, follows no redirect, keeps no cookies, and takes nothing from
the environment. requests reads, unpacks and parses nothing of an answer: its status, headers and body are read here, from
urllib3's response.

What bounds a request:

    connecting      `oss.connect_timeout_seconds` each for the TCP connection, a proxy's answer and the TLS handshake
    sending         `oss.write_timeout_seconds` for the headers and for the body, however slowly they are read
    waiting         `oss.read_timeout_seconds` from the last byte sent to the last byte of the answer, however it drips
    the answer      `MOST_HEADER_BYTES` and `MOST_BODY_BYTES`
"""

import base64
import contextlib
import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse
from urllib3.util import parse_url
from urllib3.util.ssl_ import create_urllib3_context

from worker.errors import BlockReason, RetryReason, SettingsError, SinkError, TargetError, Transient
from worker.oss.answers import Answer
from worker.settings.tables import Oss

MOST_HEADER_BYTES: Final = 262144  # of an answer, with all that comes before it (100 Continue)
MOST_BODY_BYTES: Final = 1048576  # an answer has no more than one index's description, or an error
_CHUNKED_OVERHEAD: Final = 2  # for what stands between the chunks of a body
_HOSTS: Final = 4  # that connections are kept to: there is one, or one proxy
_IDLE_SECONDS: Final = 30.0  # after which a kept connection is not used again: balancers forget it without a word
_KEEPALIVE_SECONDS: Final = 15  # of silence, after which the system asks whether the other side is still there
_PIECE: Final = 65536
_INSTANT: Final = (
    0.001  # seconds, where a deadline is past: 0 would mean not to wait at all, which has errors of its own
)


class Phase(Enum):
    """How far a request is."""

    CONNECTING = "connecting"  # no byte of it has left
    SENDING = "sending"
    WAITING = "waiting for the answer"  # it has all left


class Exchange:
    """One request of one thread."""

    def __init__(self) -> None:
        self.phase = Phase.CONNECTING
        self.connection: HTTPConnection | None = None
        self.is_aborted = False
        self.is_held_back = False


class Exchanges:
    """The requests under way by thread, so that another thread can cut one.

    `may_send` is asked just before bytes of a request go.
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
        """Note what this thread's request uses. Raises `ConnectionAbortedError` if it must not leave, or was aborted."""
        may_send = phase is not Phase.SENDING or self._may_send()
        with self._lock:
            exchange = self._by_thread.get(threading.get_ident())
            if exchange is None:
                return
            if not may_send:
                exchange.is_held_back = True
                raise ConnectionAbortedError("held back before it was sent")
            if exchange.is_aborted and phase is not Phase.WAITING:
                raise ConnectionAbortedError("aborted before it was sent")
            exchange.connection, exchange.phase = connection, phase

    def abort(self, thread_id: int) -> None:
        """Cut the thread's connection; a request that has none yet, for it still asks for credentials, does not leave."""
        with self._lock:
            exchange = self._by_thread.get(thread_id)
            if exchange is None:
                return
            exchange.is_aborted = True
            sock = exchange.connection.sock if exchange.connection is not None else None
        if sock is not None:
            _cut(sock)


def _cut(sock: Any) -> None:
    """End a connection below its TLS.

    `SSLSocket.shutdown` lets go of TLS first: what the connection's own thread sends in that moment would leave as it is. And
    TLS in TLS, to a service through a proxy that speaks TLS, has no `shutdown` at all.
    """
    below = getattr(sock, "socket", sock)
    with contextlib.suppress(OSError):  # it was closed meanwhile, which is what was wanted
        socket.socket.shutdown(below, socket.SHUT_RDWR)


class Connections:
    """The connections to one endpoint. Safe for several threads, each with a connection of its own.

    Raises `SettingsError` where `oss.ca_file` holds no certificates.
    """

    def __init__(self, settings: Oss, exchanges: Exchanges, most: int, clock: Callable[[], float]) -> None:
        self._timeout = (settings.connect_timeout_seconds, settings.read_timeout_seconds)
        self.proxy = ""  # its address, without the login
        if settings.proxy_url:
            self.proxy = parse_url(settings.proxy_url)._replace(auth=None, path=None).url
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.stream = True
        self._session.cookies = _NoCookies()
        self._session.proxies = {"all": self.proxy} if self.proxy else {}
        adapter = _Adapter(settings, self.proxy, most, _pool_classes(exchanges, settings.write_timeout_seconds, clock))
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def post(self, url: str, headers: Mapping[str, str], body: bytes, exchange: Exchange) -> Answer:
        """Send a request and return the answer, whatever it is. Raises what `error_of_connection` reads."""
        sent = {**headers, "Accept-Encoding": "identity"}
        request = requests.Request("POST", url, headers=sent, data=body).prepare()
        response = self._session.send(request, timeout=self._timeout, allow_redirects=False).raw
        was_all_sent = exchange.phase is Phase.WAITING
        return Answer(response.status, response.headers, _content(response, keep=was_all_sent), was_all_sent)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


def literal_host(endpoint: str) -> str | None:
    """Return the endpoint's host where no name can be made below it: an IP address, or localhost."""
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost":
        return host
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


class LiteralHosts(HTTPAdapter):
    """Reaches an endpoint below which no name can be made, as `literal_host` returns it.

    The SDK always makes the host `{bucket}-{account}.{endpoint}`, which may not resolve there. The connection goes to the
    endpoint, and the Host header keeps the name. Nothing is retried.
    """

    def __init__(self, literal_host: str | None, connections: int = 10) -> None:
        self._literal_host = literal_host
        super().__init__(pool_connections=_HOSTS, pool_maxsize=connections, max_retries=0)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if self._literal_host is not None:
            parts = urlsplit(request.url or "")
            request.headers["Host"] = parts.netloc
            host = f"[{self._literal_host}]" if ":" in self._literal_host else self._literal_host
            request.url = parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host).geturl()
        return super().send(request, *args, **kwargs)


class _Adapter(LiteralHosts):
    """Gives the session our connections, direct or through the proxy, and leaves its answers unread."""

    def __init__(self, settings: Oss, proxy: str, most: int, pool_classes: Mapping[str, Any]) -> None:
        self._options: dict[str, Any] = {
            "ssl_context": _tls(settings.ca_file),
            "socket_options": [*HTTPConnection.default_socket_options, *_keepalive(settings.write_timeout_seconds)],
        }
        self._proxy = proxy
        if proxy:
            self._options["proxy_headers"] = _login(settings.proxy_url)
            self._options["proxy_ssl_context"] = _tls(settings.ca_file)
        self._pool_classes = pool_classes
        super().__init__(literal_host(settings.endpoint), most)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **_: Any) -> None:
        """Make the pools. `HTTPAdapter` calls it as it is made."""
        shared = {"num_pools": connections, "maxsize": maxsize, "block": block, **self._options}
        self.poolmanager = ProxyManager(self._proxy, **shared) if self._proxy else PoolManager(**shared)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def get_connection_with_tls_context(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> Any:
        """Return the pool for a request; certificates are checked by the context that all pools have."""
        return self.poolmanager.connection_from_url(request.url)

    def cert_verify(self, *_: Any) -> None:
        """Do nothing, where requests would add the authorities that it trusts to those of `oss.ca_file`."""

    def build_response(self, req: requests.PreparedRequest, resp: BaseHTTPResponse) -> requests.Response:
        """Wrap an answer without its headers, so that requests finds nothing in them to act upon.

        It would parse the cookies, which takes seconds where they are made for it, and read and unpack the body of a redirect,
        though it follows none.
        """
        response = requests.Response()
        response.status_code, response.raw, response.request = resp.status, resp, req
        return response


class _NoCookies(RequestsCookieJar):
    """Keeps nothing, and parses nothing."""

    def extract_cookies(self, *_: Any) -> None:
        """Do nothing."""


def _content(response: BaseHTTPResponse, *, keep: bool) -> bytes | None:
    """Read the body, None where it is too long. A connection on which more may follow is closed, not used again.

    What would follow is another answer, to the next request: the end of a body that was not read, or the true answer after
    an interim one (103 Early Hints).
    """
    pieces: list[bytes] = []
    size = 0
    is_whole = False
    try:
        if response.status >= 200 or response.status == 101:
            while size <= MOST_BODY_BYTES and (piece := response.read(_PIECE, decode_content=False)):
                pieces.append(piece)
                size += len(piece)
        is_whole = size <= MOST_BODY_BYTES
    except (HTTPError, http.client.HTTPException, OSError):
        if 200 <= response.status <= 299:
            raise
        # The status alone says what is to be done.
    finally:
        if not is_whole or not keep or response.status < 200:
            response.close()
    return b"".join(pieces) if is_whole else None


def _tls(ca_file: str) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    try:
        context.load_verify_locations(cafile=ca_file or DEFAULT_CA_BUNDLE_PATH)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError([f"oss.ca_file = {ca_file!r}: no certificates in PEM: {error}"]) from None
    return context


def _login(proxy_url: str) -> dict[str, str]:
    parts = urlsplit(proxy_url)
    if not parts.username:
        return {}
    name, password = (unquote_to_bytes(part or "") for part in (parts.username, parts.password))
    return {"Proxy-Authorization": f"Basic {base64.b64encode(name + b':' + password).decode()}"}


def _keepalive(write_timeout: float) -> list[tuple[int, int, int]]:
    """Return the options that let the system notice a peer that is gone, as far as it has them."""
    options = [
        ("TCP_KEEPIDLE", _KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        # How long sent bytes may be without an acknowledgement. It also ends a connection whose peer reads nothing, so it is
        # not less than what the settings allow for that.
        ("TCP_USER_TIMEOUT", int(min(max(30.0, write_timeout), 86400.0) * 1000)),
    ]
    return [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in options if hasattr(socket, name)),
    ]


# -- bounds


class _BoundedReader(io.RawIOBase):
    """What comes from a socket, until a deadline and up to a number of bytes."""

    def __init__(self, sock: Any, clock: Callable[[], float]) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._clock = clock
        self._seconds: float = sock.gettimeout()
        self._deadline = clock() + self._seconds
        self._left = MOST_HEADER_BYTES

    def allow(self, size: int) -> None:
        """Allow for so many more bytes."""
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


def _response_class(clock: Callable[[], float]) -> type[http.client.HTTPResponse]:
    class BoundedResponse(http.client.HTTPResponse):
        """An answer that has, in all, the time that its socket has for one read as it begins."""

        def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self.fp.close()
            self._bounded = _BoundedReader(sock, clock)
            self.fp = io.BufferedReader(self._bounded)

        def begin(self) -> None:
            super().begin()
            self._bounded.allow(MOST_BODY_BYTES * _CHUNKED_OVERHEAD)

    return BoundedResponse


def _pool_classes(exchanges: Exchanges, write_timeout: float, clock: Callable[[], float]) -> dict[str, Any]:
    """Return urllib3's pools with connections that are bounded, noted in their exchange, and not kept for too long.

    urllib3 bounds the sending of a body by the connect time-out, which a body of megabytes may well take longer than, and
    each read of an answer by itself.
    """

    class Bounded:
        sock: Any
        response_class = _response_class(clock)
        _is_connecting = False
        _used_at = 0.0

        def connect(self) -> None:
            exchanges.use(self, Phase.CONNECTING)  # type: ignore[arg-type]  # it is mixed into an HTTP connection
            self._is_connecting = True
            try:
                super().connect()  # type: ignore[misc]  # likewise
            finally:
                self._is_connecting = False
            exchanges.use(self, Phase.CONNECTING)  # type: ignore[arg-type]  # likewise
            self._used_at = clock()

        @property
        def is_connected(self) -> bool:
            """Whether it may be used again."""
            return bool(super().is_connected) and clock() - self._used_at < _IDLE_SECONDS  # type: ignore[misc]  # likewise

        def request(self, *args: Any, **kwargs: Any) -> None:
            super().request(*args, **kwargs)  # type: ignore[misc]  # likewise
            # Not so where the sending failed, which urllib3 lets pass to see whether there is an answer all the same.
            exchanges.use(self, Phase.WAITING)  # type: ignore[arg-type]  # likewise

        def send(self, data: bytes) -> None:
            if self.sock is None:
                self.connect()
            if self._is_connecting:  # what a proxy is sent
                super().send(data)  # type: ignore[misc]  # likewise
                return
            view, deadline = memoryview(data), clock() + write_timeout
            try:
                while view:  # a body whose sender is frozen half-way does not go on when it wakes, and is never whole
                    exchanges.use(self, Phase.SENDING)  # type: ignore[arg-type]  # likewise
                    self.sock.settimeout(max(_INSTANT, deadline - clock()))
                    view = view[self.sock.send(view[:_PIECE]) :]
            except TimeoutError:
                raise TimeoutError(f"the request was not read within {write_timeout:g} s") from None

        def getresponse(self) -> Any:
            try:
                return super().getresponse()  # type: ignore[misc]  # likewise
            finally:
                self._used_at = clock()

    class HttpConnection(Bounded, HTTPConnection):  # type: ignore[misc]  # urllib3 takes fewer kinds of data to send
        pass

    class HttpsConnection(Bounded, HTTPSConnection):  # type: ignore[misc]  # likewise
        pass

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = HttpConnection

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = HttpsConnection

    return {"http": HttpPool, "https": HttpsPool}


# -- errors

_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3})")


def error_of_connection(error: BaseException, where: str, phase: Phase) -> SinkError:
    """Return how a request to `where` that got no answer failed, and whether it may have been applied."""
    causes = list(_causes(error))
    for cause in causes:
        if (found := _TUNNEL.match(str(cause))) is not None:
            return _error_of_tunnel(int(found.group(1)), where)
    # urllib3 derives its error for a refused connection, or a name that does not resolve, from the one for a time-out.
    timed_out = any(
        isinstance(cause, (TimeoutError, ConnectTimeoutError, ReadTimeoutError))
        and not isinstance(cause, NewConnectionError)
        for cause in causes
    )
    innermost = causes[-1]
    return Transient(
        f"{where}, {phase.value}: {type(innermost).__name__}: {innermost}",
        kind=RetryReason.TIMEOUT if timed_out else RetryReason.NETWORK,
        unknown_outcome=phase is not Phase.CONNECTING,
        while_sending=timed_out and phase is Phase.SENDING,
    )


def _error_of_tunnel(status: int, where: str) -> SinkError:
    """Judge a proxy's answer to CONNECT: what it denies, it denies until somebody changes it."""
    if status == 407:
        message = "the proxy refuses the login: check the name and password in oss.proxy_url"
        return TargetError(f"{where}: {message}", block=BlockReason.TARGET, status=status)
    if 300 <= status <= 499 and status not in (408, 429):
        message = f"the proxy (oss.proxy_url) does not connect to the service, it answers {status}"
        return TargetError(f"{where}: {message}", block=BlockReason.TARGET, status=status)
    return Transient(f"{where}, connecting: the proxy (oss.proxy_url) answers {status}", kind=RetryReason.NETWORK)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Walk an exception's causes, outermost first; requests and urllib3 wrap them as arguments and attributes."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [*current.args, getattr(current, "reason", None), current.__cause__]
        if not current.__suppress_context__:
            queue.append(current.__context__)
