"""The OSS vector service: sign, send, and read what comes back.

The only module that knows the official SDK, which signs and makes the host. It is handed finished bodies, and its own
retries are off: there is one retry policy, in `delivery`. What comes back does not go through it: it takes every 2xx for the
service's word, and fails on odd answers.
"""

import base64
import hashlib
import http.client
import re
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import alibabacloud_oss_v2 as sdk
import alibabacloud_oss_v2.vectors as sdk_vectors
import msgspec
from alibabacloud_oss_v2.types import HttpClient, OperationInput
from urllib3.exceptions import HTTPError

from worker.errors import BlockReason, NotSent, RetryReason, SinkError, TargetError, Transient
from worker.oss.answers import Answer, error_of
from worker.oss.credentials.providers import credentials_provider
from worker.oss.http import Connections, Exchange, Exchanges, Phase, error_of_connection, literal_host
from worker.records.decode import Target
from worker.settings.tables import Oss

_NOT_OF_A_HEADER: Final = re.compile(r"^\s|[^\t\x20-\x7e\x80-\xff]")  # requests refuses a space before a value


class OssSink:
    """The service itself, signed by the official SDK. Safe for several threads, each with a connection of its own."""

    def __init__(
        self,
        settings: Oss,
        environ: Mapping[str, str],
        *,
        max_connections: int,
        may_send: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`may_send` is asked on the thread of each request, just before its bytes go; False raises `NotSent`."""
        self._bucket = settings.bucket
        self._exchanges = Exchanges(may_send)
        self._connections = Connections(settings, self._exchanges, max_connections, clock)
        endpoint = settings.endpoint or f"https://{sdk_vectors.endpoints.from_region(settings.region, 'default')}"
        parts = urlsplit(endpoint)
        if ":" in (literal_host(endpoint) or ""):  # no name can be made of an IPv6 address, nor is one needed
            parts = parts._replace(netloc=f"localhost:{parts.port}" if parts.port else "localhost")
        config = sdk.config.load_default()
        config.region = settings.region
        config.account_id = settings.account_id
        config.endpoint = parts.geturl()
        self._credentials = credentials_provider(settings, environ)
        config.credentials_provider = self._credentials
        config.retry_max_attempts = 1
        config.http_client = _Sender()
        config.user_agent = "oss-vectors-worker"
        self.client = sdk_vectors.Client(config)
        self.url = f"{parts.scheme}://{settings.bucket}-{settings.account_id}.{parts.netloc}"
        """Where requests go."""
        self._where = self.url
        if self._connections.proxy:
            self._where += f" through {self._connections.proxy}"

    def put(self, body: bytes) -> int:
        """Send a PutVectors body; returns the HTTP status."""
        return self._invoke("PutVectors", "putVectors", body).status

    def delete(self, body: bytes) -> int:
        """Send a DeleteVectors body; returns the HTTP status."""
        return self._invoke("DeleteVectors", "deleteVectors", body).status

    def get(self, body: bytes) -> bytes:
        """Send a GetVectors body; returns the body of the answer."""
        return self._invoke("GetVectors", "getVectors", body).body or b""

    def describe(self, index: str) -> Target:
        """Ask for an index's dimension, metric and metadata keys (GetVectorIndex).

        Raises `Transient` while the index is being made, since writes can fail until it is enabled.
        """
        answer = self._invoke("GetVectorIndex", "getVectorIndex", msgspec.json.encode({"indexName": index}))
        try:
            found = msgspec.json.decode(answer.body or b"", type=_IndexAnswer).index
        except (ValueError, RecursionError) as error:  # of which msgspec's own and that of UTF-8 are kinds
            raise Transient(f"GetVectorIndex answered what is no index: {error}", kind=RetryReason.SERVER) from None
        if found.status not in ("", "enable"):
            raise Transient(f'index {index} is "{found.status}", not yet "enable"', kind=RetryReason.SERVER)
        return Target(
            index,
            found.dimension,
            found.distance_metric,
            frozenset(found.metadata.non_filterable_metadata_keys if found.metadata else ()),
        )

    def abort(self, thread_id: int) -> None:
        """Cut the connection on which that thread waits for an answer, if it does."""
        self._exchanges.abort(thread_id)

    def close(self) -> None:
        """Close all connections."""
        self._credentials.close()
        self._connections.close()

    def _invoke(self, operation: str, query: str, body: bytes) -> Answer:
        """Make a request. Whatever goes wrong with it, in the SDK and in reading the answer too, is a `SinkError`."""
        request = OperationInput(
            op_name=operation,
            method="POST",
            headers={"Content-Type": "application/json", "Content-MD5": _content_md5(body)},
            parameters={query: ""},
            bucket=self._bucket,
            body=body,
        )
        with self._exchanges.open() as exchange:
            try:
                signed = self._signed(request)
                answer = self._connections.post(signed.url, _headers(signed.headers), body, exchange)
                error = error_of(operation, answer)
            except SinkError:
                raise
            except Exception as failure:  # none may end the thread, which would end the worker
                raise self._failed(failure, exchange) from failure
        if error is not None:
            if isinstance(error, TargetError) and error.block is BlockReason.CREDENTIALS:
                self._credentials.forget()
            raise error
        return answer

    def _signed(self, request: OperationInput) -> Any:
        try:
            self.client.invoke_operation(request)
        except sdk.exceptions.OperationError as error:
            cause = error.unwrap()
            if isinstance(cause, _Signed):
                return cause.request
            if isinstance(cause, (sdk.exceptions.CredentialsFetchError, sdk.exceptions.CredentialsEmptyError)):
                raise TargetError(f"no credentials: {cause}", block=BlockReason.CREDENTIALS) from None
            raise cause from None
        raise AssertionError("the SDK sent nothing")

    def _failed(self, failure: Exception, exchange: Exchange) -> SinkError:
        if exchange.is_held_back:
            return NotSent("held back before it had left: the group had not confirmed the membership for too long")
        if isinstance(failure, (OSError, HTTPError, http.client.HTTPException)):
            return error_of_connection(failure, self._where, exchange.phase)
        # Its message may hold what is secret; where it was raised says enough.
        last = traceback.extract_tb(failure.__traceback__)[-1]
        return Transient(
            f"{self._where}, {exchange.phase.value}: unforeseen {type(failure).__name__} at {Path(last.filename).name}:{last.lineno}",
            kind=RetryReason.NETWORK,
            unknown_outcome=exchange.phase is not Phase.CONNECTING,
        )


class _Signed(Exception):
    """A request that the SDK has signed."""

    def __init__(self, request: Any) -> None:
        super().__init__("signed")
        self.request = request


class _Sender(HttpClient):  # type: ignore[misc]  # the SDK ships no types
    """Takes the signed request from the SDK, in place of sending it."""

    def send(self, request: Any, **_: Any) -> NoReturn:
        raise _Signed(request)

    def open(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _headers(signed: Mapping[str, str | None]) -> dict[str, str]:
    """Return the headers to send. Raises `TargetError` where one cannot be: those that vary come from the credentials."""
    headers = {name: value for name, value in signed.items() if value is not None}
    for name, value in headers.items():
        if _NOT_OF_A_HEADER.search(value):
            message = f"the header {name} cannot be sent: the credentials hold a line break, a space before them, or another character that no header takes"
            raise TargetError(message, block=BlockReason.CREDENTIALS)
    return headers


class _IndexMetadata(msgspec.Struct, rename="camel"):
    non_filterable_metadata_keys: list[str] = []


class _Index(msgspec.Struct, rename="camel"):
    dimension: int
    distance_metric: str
    status: str = ""
    metadata: _IndexMetadata | None = None


class _IndexAnswer(msgspec.Struct):
    index: _Index


def _content_md5(body: bytes) -> str:
    """The signature leaves the payload out (UNSIGNED-PAYLOAD), so this header is what protects it."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
