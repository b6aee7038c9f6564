"""The HTTP client of the service: one session, its adapter and pools, with and without a proxy.

The HTTP client is a `requests.Session` with one adapter, which gives it urllib3's pools with connections of our own
(`bounded.py`). The session sends a request and nothing more: it retries nothing, follows no redirect, keeps no cookies, and
takes nothing from the environment. requests reads, unpacks and parses nothing of an answer: its status, headers and body are
read here, from urllib3's response.
"""

import base64
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import PoolManager, ProxyManager
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse
from urllib3.util import parse_url
from urllib3.util.ssl_ import create_urllib3_context

from worker.errors import SettingsError
from worker.oss.answers import Answer
from worker.oss.bounded import MOST_BODY_BYTES, PIECE_BYTES, pool_classes
from worker.oss.exchange import Exchange, Exchanges, Phase

_HOSTS: Final = 4  # that connections are kept to: there is one, or one proxy
_KEEPALIVE_SECONDS: Final = 15  # of silence, after which the system asks whether the other side is still there


class Way(Protocol):
    """What connections need of the settings: the way to an endpoint, and the limits of time, in seconds."""

    @property
    def endpoint(self) -> str: ...
    @property
    def ca_file(self) -> str: ...
    @property
    def proxy_url(self) -> str: ...
    @property
    def connect_timeout_seconds(self) -> float: ...
    @property
    def write_timeout_seconds(self) -> float: ...
    @property
    def read_timeout_seconds(self) -> float: ...


class Connections:
    """The connections to one endpoint. Thread-safe: each thread has a connection of its own.

    Raises `SettingsError` if `ca_file` has no certificates.
    """

    def __init__(
        self,
        settings: Way,
        exchanges: Exchanges,
        most: int,
        clock: Callable[[], float],
        most_body_bytes: int = MOST_BODY_BYTES,
    ) -> None:
        self._most_body_bytes = most_body_bytes
        self._timeout = (settings.connect_timeout_seconds, settings.read_timeout_seconds)
        self.proxy = ""  # its address, without the login
        if settings.proxy_url:
            self.proxy = parse_url(settings.proxy_url)._replace(auth=None, path=None).url
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.stream = True
        self._session.cookies = _NoCookies()
        self._session.proxies = {"all": self.proxy} if self.proxy else {}
        classes = pool_classes(exchanges, settings.write_timeout_seconds, clock, most_body_bytes)
        adapter = _Adapter(settings, self.proxy, most, classes)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def post(self, url: str, headers: Mapping[str, str], body: bytes, exchange: Exchange) -> Answer:
        """Send a request and return the answer, whatever it is. Raises what `error_of_connection` reads."""
        return self._send("POST", url, headers, body, exchange)

    def get(self, url: str, headers: Mapping[str, str], exchange: Exchange) -> Answer:
        """Ask for something likewise."""
        return self._send("GET", url, headers, None, exchange)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, exchange: Exchange
    ) -> Answer:
        sent = {**headers, "Accept-Encoding": "identity"}
        request = requests.Request(method, url, headers=sent, data=body).prepare()
        response = self._session.send(request, timeout=self._timeout, allow_redirects=False).raw
        was_all_sent = exchange.phase is Phase.WAITING
        content = _content(response, self._most_body_bytes, keep=was_all_sent)
        return Answer(response.status, response.headers, content, was_all_sent)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


def literal_host(endpoint: str) -> str | None:
    """Return the endpoint's host if it can have no subdomains: an IP address, or localhost. Else None."""
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost":
        return host
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


class LiteralHosts(HTTPAdapter):
    """Connects to an endpoint that can have no subdomains, as `literal_host` returns it.

    The SDK always makes the host `{bucket}-{account}.{endpoint}`, which does not resolve then. The connection goes to the
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
    """Gives the session our connections, direct or through the proxy, and does not read answers."""

    def __init__(self, settings: Way, proxy: str, most: int, pool_classes: Mapping[str, Any]) -> None:
        self._options: dict[str, Any] = {
            "ssl_context": _tls(settings),
            "socket_options": [*HTTPConnection.default_socket_options, *_keepalive(settings.write_timeout_seconds)],
        }
        self._proxy = proxy
        if proxy:
            self._options["proxy_headers"] = _login(settings.proxy_url)
            self._options["proxy_ssl_context"] = _tls(settings)
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
        """Wrap an answer without its headers, so that requests does nothing because of them.

        It would parse the cookies, which takes seconds if they are made for that, and read and unpack the body of a redirect,
        though it follows none.
        """
        response = requests.Response()
        response.status_code, response.raw, response.request = resp.status, resp, req
        return response


class _NoCookies(RequestsCookieJar):
    """Keeps nothing, and parses nothing."""

    def extract_cookies(self, *_: Any) -> None:
        """Do nothing."""


def _content(response: BaseHTTPResponse, most_bytes: int, *, keep: bool) -> bytes | None:
    """Return the body, None if it is too long. A connection on which more may follow is closed, not used again.

    What would follow is another answer, to the next request: the end of a body that was not read, or the true answer after
    an interim one (103 Early Hints).
    """
    pieces: list[bytes] = []
    size = 0
    is_whole = False
    try:
        if response.status >= 200 or response.status == 101:
            while size <= most_bytes and (piece := response.read(PIECE_BYTES, decode_content=False)):
                pieces.append(piece)
                size += len(piece)
        is_whole = size <= most_bytes
    except (HTTPError, http.client.HTTPException, OSError):
        if 200 <= response.status <= 299:
            raise
        # The status alone says what to do.
    finally:
        if not is_whole or not keep or response.status < 200:
            response.close()
    return b"".join(pieces) if is_whole else None


def _tls(settings: Way) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    try:
        context.load_verify_locations(cafile=settings.ca_file or DEFAULT_CA_BUNDLE_PATH)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        problem = f"ca_file for {settings.endpoint} = {settings.ca_file!r}: no certificates in PEM: {error}"
        raise SettingsError([problem]) from None
    return context


def _login(proxy_url: str) -> dict[str, str]:
    parts = urlsplit(proxy_url)
    if not parts.username:
        return {}
    name, password = (unquote_to_bytes(part or "") for part in (parts.username, parts.password))
    return {"Proxy-Authorization": f"Basic {base64.b64encode(name + b':' + password).decode()}"}


def _keepalive(write_timeout: float) -> list[tuple[int, int, int]]:
    """Return the socket options with which the system notices that a peer is gone, as far as it has them."""
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
