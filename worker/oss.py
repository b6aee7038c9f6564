"""The OSS vector service: sign, send, and tell errors apart.

The only module that knows the official SDK, which signs, makes the host and reads errors. It is handed finished bodies,
and its own retries are off: there is one retry policy, in `delivery`.
"""

import base64
import contextlib
import hashlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import alibabacloud_oss_v2 as sdk
import alibabacloud_oss_v2.vectors as sdk_vectors
import msgspec
import requests
from alibabacloud_oss_v2.transport import RequestsHttpClient
from alibabacloud_oss_v2.types import OperationInput
from requests.adapters import HTTPAdapter
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError
from urllib3.util.retry import Retry

from worker.config import Oss
from worker.credentials import credentials_provider
from worker.errors import (
    BlockReason,
    NotSent,
    Refused,
    RetryReason,
    SinkError,
    TargetError,
    Transient,
)
from worker.record import Target

CREDENTIAL_STATUSES: Final = frozenset({401, 403})
REFUSED_STATUSES: Final = frozenset({400, 413, 422})
_MESSAGE_CHARACTERS: Final = 500
_PIECE_BYTES: Final = 256 * 1024  # of a body, before each of which it is looked whether it may still leave


class Sink(Protocol):
    """Where batches go. Every call is one attempt, bounded by the time-outs of the settings, and raises `SinkError`."""

    def put(self, body: bytes) -> int:
        """Send a PutVectors body; returns the HTTP status."""

    def delete(self, body: bytes) -> int:
        """Send a DeleteVectors body; returns the HTTP status."""

    def describe(self, index: str) -> Target:
        """Ask for an index's dimension, metric and metadata keys; it must be ready for writes."""

    def abort(self, thread_id: int) -> None:
        """Cut the connection on which that thread waits for an answer, if it does."""

    def close(self) -> None:
        """Close all connections."""


class OssSink:
    """The service itself, through the official SDK. Safe for several threads, each with a connection of its own."""

    def __init__(
        self,
        settings: Oss,
        environ: Mapping[str, str],
        *,
        max_connections: int,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_send` is asked on the thread of each request, just before its bytes go; False raises `NotSent`."""
        self._bucket = settings.bucket
        self._connections = _Connections(settings.write_timeout_seconds, may_send)
        self._session = _session(settings, self._connections, max_connections)
        self._http = _HttpClient(
            session=self._session,
            connect_timeout=settings.connect_timeout_seconds,
            readwrite_timeout=settings.read_timeout_seconds,
        )
        config = sdk.config.load_default()
        config.region = settings.region
        config.account_id = settings.account_id
        config.endpoint = settings.endpoint or None
        config.credentials_provider = credentials_provider(settings, environ)
        config.retry_max_attempts = 1
        config.http_client = self._http
        config.user_agent = "oss-vectors-worker"
        self.client = sdk_vectors.Client(config)
        endpoint = urlsplit(
            settings.endpoint or f"https://{sdk_vectors.endpoints.from_region(settings.region, 'default')}"
        )
        self._where = f"{endpoint.scheme}://{settings.bucket}-{settings.account_id}.{endpoint.netloc}"

    def put(self, body: bytes) -> int:
        """Send a PutVectors body; returns the HTTP status."""
        return self._invoke("PutVectors", "putVectors", body)[0]

    def delete(self, body: bytes) -> int:
        """Send a DeleteVectors body; returns the HTTP status."""
        return self._invoke("DeleteVectors", "deleteVectors", body)[0]

    def describe(self, index: str) -> Target:
        """Ask for an index's dimension, metric and metadata keys (GetVectorIndex).

        Raises `Transient` while the index is being made, since writes can fail until it is enabled.
        """
        _, content = self._invoke("GetVectorIndex", "getVectorIndex", msgspec.json.encode({"indexName": index}))
        try:
            answer = msgspec.json.decode(content, type=_IndexAnswer).index
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Transient(f"GetVectorIndex answered what is no index: {error}", kind=RetryReason.SERVER) from None
        if answer.status not in ("", "enable"):
            raise Transient(f'index {index} is "{answer.status}", not yet "enable"', kind=RetryReason.SERVER)
        return Target(
            index,
            answer.dimension,
            answer.distance_metric,
            frozenset(answer.metadata.non_filterable_metadata_keys if answer.metadata else ()),
        )

    def abort(self, thread_id: int) -> None:
        """Cut the connection on which that thread waits for an answer, if it does."""
        self._connections.abort(thread_id)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _invoke(self, operation: str, query: str, body: bytes) -> tuple[int, bytes]:
        request = OperationInput(
            op_name=operation,
            method="POST",
            headers={"Content-Type": "application/json", "Content-MD5": _content_md5(body)},
            parameters={query: ""},
            bucket=self._bucket,
            body=body,
        )
        self._http.forget()
        try:
            with self._connections.in_use():
                answer = self.client.invoke_operation(request)
        except Exception as error:  # whatever the SDK makes of an answer, it is told apart by its status
            raise self._classified(error) from error
        return int(answer.status_code), bytes(answer.http_response.content)

    def _classified(self, error: Exception) -> SinkError:
        cause = error.unwrap() if isinstance(error, sdk.exceptions.OperationError) else error
        if self._connections.was_held_back():
            return NotSent("held back before it had left: the group had not confirmed the membership for too long")
        if isinstance(cause, sdk.exceptions.ServiceError):
            return error_of_answer(
                int(cause.status_code),
                cause.code or "",
                cause.message or "",
                cause.request_id or "",
                cause.headers or {},
            )
        if isinstance(cause, sdk.exceptions.CredentialsFetchError):
            return TargetError(f"no credentials: {cause}", block=BlockReason.CREDENTIALS)
        if isinstance(cause, (sdk.exceptions.RequestError, sdk.exceptions.ResponseError)):
            return error_of_connection(cause.unwrap(), self._where)
        status, headers = self._http.seen()
        if status:  # the SDK could not read the answer: cut short, or without a date
            return error_of_answer(status, "", str(cause), headers.get("x-oss-request-id", ""), headers)
        return error_of_connection(cause, self._where)


class _IndexMetadata(msgspec.Struct, rename="camel"):
    non_filterable_metadata_keys: list[str] = []


class _Index(msgspec.Struct, rename="camel"):
    dimension: int
    distance_metric: str
    status: str = ""
    metadata: _IndexMetadata | None = None


class _IndexAnswer(msgspec.Struct):
    index: _Index


# -- errors


def error_of_answer(status: int, code: str, message: str, request_id: str, headers: Mapping[str, str]) -> SinkError:
    """Tell what an answer other than 2xx means: by its status first, by its code second."""
    said = " ".join(message.split())[:_MESSAGE_CHARACTERS] or "no message"
    if status in REFUSED_STATUSES:
        return Refused(said, status=status, code=code, request_id=request_id)
    if status in CREDENTIAL_STATUSES:
        block = BlockReason.CREDENTIALS
        return TargetError(said, block=block, status=status, code=code, request_id=request_id)
    if status in (408, 429) or status >= 500:
        throttled = status == 429 or (status == 503 and "Limit" in code)
        return Transient(
            said,
            kind=RetryReason.THROTTLED if throttled else RetryReason.SERVER,
            status=status,
            code=code,
            request_id=request_id,
            retry_after=retry_after(headers),
            unknown_outcome=status >= 500 and not throttled,
        )
    # 404, and what no writer expects (a redirect, 405, 409): the request went to the wrong place.
    return TargetError(said, block=BlockReason.TARGET, status=status, code=code, request_id=request_id)


def error_of_connection(error: BaseException, where: str) -> Transient:
    """Tell how a request to `where` that got no answer failed, and whether it may have been applied."""
    causes = list(_causes(error))
    never_left = any(
        isinstance(cause, (ConnectTimeoutError, NewConnectionError, ssl.SSLCertVerificationError)) for cause in causes
    )
    # urllib3 derives its error for a refused connection, or a name that does not resolve, from the one for a time-out.
    timed_out = any(
        isinstance(cause, (TimeoutError, ConnectTimeoutError, ReadTimeoutError))
        and not isinstance(cause, NewConnectionError)
        for cause in causes
    )
    while_reading = any(isinstance(cause, ReadTimeoutError) for cause in causes)
    innermost = causes[-1]
    return Transient(
        f"{where}: {type(innermost).__name__}: {innermost}"[:_MESSAGE_CHARACTERS],
        kind=RetryReason.TIMEOUT if timed_out else RetryReason.NETWORK,
        unknown_outcome=not never_left,
        while_sending=timed_out and not while_reading and not never_left,
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Walk an exception's causes, outermost first; requests and urllib3 wrap theirs as arguments and attributes."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [*current.args, getattr(current, "reason", None), current.__cause__, current.__context__]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a Retry-After header asks for; a date is held against the answer's own Date."""
    value = headers.get("Retry-After", headers.get("retry-after", "")).strip()
    if not value:
        return None
    try:
        return max(0.0, float(int(value)))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
        said_at = parsedate_to_datetime(headers.get("Date", headers.get("date", "")))
    except ValueError:
        return None
    return max(0.0, (_utc(until) - _utc(said_at)).total_seconds())


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# -- HTTP


class _HttpClient(RequestsHttpClient):  # type: ignore[misc]  # the SDK ships no types
    """The SDK's client on our session; remembers, for each thread, the answer that the SDK may fail to read."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._local = threading.local()

    def send(self, request: Any, **kwargs: Any) -> Any:
        response = super().send(request, **kwargs)
        self._local.seen = (int(response.status_code), dict(response.headers))
        return response

    def forget(self) -> None:
        self._local.seen = (0, {})

    def seen(self) -> tuple[int, dict[str, str]]:
        seen: tuple[int, dict[str, str]] = self._local.seen
        return seen


class _Connections:
    """The connections in use by thread, so that another thread can cut one; and how long a body may take to send."""

    def __init__(self, write_timeout: float, may_send: Callable[[], bool]) -> None:
        self.write_timeout = write_timeout
        self._may_send = may_send
        self._held_back = threading.local()
        self._lock = threading.Lock()
        self._in_use: dict[int, HTTPConnection | None] = {}
        self._aborted: set[int] = set()

    def in_use(self) -> "_InUse":
        return _InUse(self._lock, self._in_use, self._aborted)

    def sending(self, connection: HTTPConnection) -> None:
        """Note what this thread sends on. Raises `ConnectionAbortedError` if its request must not leave, or was aborted."""
        if not self._may_send():
            self._held_back.is_set = True
            raise ConnectionAbortedError("held back before it was sent")
        with self._lock:
            thread_id = threading.get_ident()
            if thread_id in self._aborted:
                raise ConnectionAbortedError("aborted before it was sent")
            if thread_id in self._in_use:
                self._in_use[thread_id] = connection

    def was_held_back(self) -> bool:
        """Return whether this thread's request must not leave, and forget it."""
        held_back = getattr(self._held_back, "is_set", False)
        self._held_back.is_set = False
        return held_back

    def abort(self, thread_id: int) -> None:
        """Cut the thread's connection; a request that has none yet, for it still asks for credentials, does not leave."""
        with self._lock:
            if thread_id not in self._in_use:
                return
            self._aborted.add(thread_id)
            connection = self._in_use[thread_id]
            sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):  # it was closed meanwhile, which is what was wanted
                sock.shutdown(socket.SHUT_RDWR)


class _InUse:
    def __init__(self, lock: threading.Lock, in_use: dict[int, HTTPConnection | None], aborted: set[int]) -> None:
        self._lock = lock
        self._in_use = in_use
        self._aborted = aborted

    def __enter__(self) -> None:
        with self._lock:
            self._in_use[threading.get_ident()] = None

    def __exit__(self, *_: object) -> None:
        with self._lock:
            del self._in_use[threading.get_ident()]
            self._aborted.discard(threading.get_ident())


def _session(settings: Oss, connections: _Connections, max_connections: int) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = settings.ca_file or True
    if settings.proxy_url:
        session.proxies = {"http": settings.proxy_url, "https": settings.proxy_url}
    adapter = _Adapter(connections, _literal_host(settings.endpoint), max_connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _literal_host(endpoint: str) -> str | None:
    """Return the endpoint's host where no name can be made below it: an IP address, or localhost."""
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost":
        return host
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


class _Adapter(HTTPAdapter):
    """Bounds the time that a body may take to send, and reaches endpoints below which no name can be made.

    The SDK always makes the host `{bucket}-{account}.{endpoint}`. Where the endpoint is an IP address or localhost, that
    name may not resolve: the connection then goes to the endpoint, and the Host header keeps the name.
    """

    def __init__(self, connections: _Connections, literal_host: str | None, max_connections: int) -> None:
        self._tracked = connections
        self._literal_host = literal_host
        super().__init__(
            max_retries=Retry(total=False, redirect=False), pool_maxsize=max_connections, pool_connections=4
        )

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._tracked)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if self._literal_host is not None:
            parts = urlsplit(request.url or "")
            host = f"[{self._literal_host}]" if ":" in self._literal_host else self._literal_host
            request.headers["Host"] = parts.netloc
            request.url = parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host).geturl()
        return super().send(request, *args, **kwargs)


def _pool_classes(connections: _Connections) -> dict[str, Any]:
    """Return urllib3's pools with connections that have a time-out of their own for sending.

    urllib3 bounds the sending of a body by the connect time-out, which a body of megabytes may well take longer than.
    """

    class BoundedSend:
        sock: Any

        def connect(self) -> None:
            super().connect()  # type: ignore[misc]  # of the HTTP connection that this is mixed into
            connections.sending(self)  # type: ignore[arg-type]  # likewise
            self.sock.settimeout(connections.write_timeout)

        def send(self, data: Any) -> None:
            deadline = time.monotonic() + connections.write_timeout
            for piece in _pieces(data):
                connections.sending(self)  # type: ignore[arg-type]  # likewise
                if self.sock is not None:
                    self.sock.settimeout(max(0.001, deadline - time.monotonic()))
                super().send(piece)  # type: ignore[misc]  # likewise

    class HttpConnection(BoundedSend, HTTPConnection):
        pass

    class HttpsConnection(BoundedSend, HTTPSConnection):
        pass

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = HttpConnection

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = HttpsConnection

    return {"http": HttpPool, "https": HttpsPool}


def _pieces(data: Any) -> Iterator[Any]:
    """Cut a body into pieces: one whose sender is frozen half-way does not go on when it wakes, and is never whole."""
    if not isinstance(data, bytes) or len(data) <= _PIECE_BYTES:
        yield data
        return
    view = memoryview(data)
    for begin in range(0, len(view), _PIECE_BYTES):
        yield view[begin : begin + _PIECE_BYTES]


def _content_md5(body: bytes) -> str:
    """The signature leaves the payload out (UNSIGNED-PAYLOAD), so this header is what protects it."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
