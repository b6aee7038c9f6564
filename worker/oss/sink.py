"""The OSS vector service: sign and send requests, and read their answers.

Only this module and the credentials know the official SDK, which signs requests and makes the host name. The SDK is given
finished bodies, and its own retries are off: there is one retry policy, in `delivery/courier.py`. Answers do not pass through
the SDK: it believes every 2xx, and fails on unusual answers.
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
from alibabacloud_oss_v2.types import HttpClient, OperationInput
from urllib3.exceptions import HTTPError

from worker.errors import BlockReason, NotSent, RetryReason, SinkError, TargetError, Transient
from worker.oss.answers import Answer, error_of
from worker.oss.bounded import MOST_BODY_BYTES
from worker.oss.codes import is_of_the_key
from worker.oss.credentials.providers import credentials_provider
from worker.oss.dialect import CALLS, describe_body, described
from worker.oss.exchange import Exchange, Exchanges, Phase
from worker.oss.failures import error_of_connection
from worker.oss.http import Connections, literal_host
from worker.ports import Operation
from worker.records.target import Target
from worker.settings.tables import Oss

_NOT_OF_A_HEADER: Final = re.compile(r"^\s|[^\t\x20-\x7e\x80-\xff]")  # requests refuses a space before a value


class OssSink:
    """The service itself, signed by the official SDK. Thread-safe: each thread has a connection of its own."""

    def __init__(
        self,
        settings: Oss,
        environ: Mapping[str, str],
        *,
        max_connections: int,
        may_send: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        most_answer_bytes: int = MOST_BODY_BYTES,
    ) -> None:
        """`may_send` is asked on the thread of each request, just before its bytes go; False raises `NotSent`."""
        self._bucket = settings.bucket
        self._exchanges = Exchanges(may_send)
        self._connections = Connections(settings, self._exchanges, max_connections, clock, most_answer_bytes)
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
        return self._invoke(Operation.PUT, body).status

    def delete(self, body: bytes) -> int:
        """Send a DeleteVectors body; returns the HTTP status."""
        return self._invoke(Operation.DELETE, body).status

    def get(self, body: bytes) -> bytes:
        """Send a GetVectors body; returns the body of the answer."""
        return self._invoke(Operation.GET, body).body or b""

    def describe(self, index: str) -> Target:
        """Ask for an index's dimension, metric and metadata keys (GetVectorIndex).

        Raises `Transient` while the index is being made, since writes can fail until it is enabled.
        """
        return described(index, self._invoke(Operation.DESCRIBE, describe_body(index)).body or b"")

    def credentials_expiry(self) -> float | None:
        """Return when the credentials in use expire, Unix time; None where that is not known, or none are in use."""
        return self._credentials.expires_at()

    def abort(self, thread_id: int) -> None:
        """Cut the connection on which that thread waits for an answer, if it does."""
        self._exchanges.abort(thread_id)

    def close(self) -> None:
        """Close all connections."""
        self._credentials.close()
        self._connections.close()

    def _invoke(self, operation: Operation, body: bytes) -> Answer:
        """Make a request. Every error of it is a `SinkError`, also one in the SDK or in reading the answer."""
        request = OperationInput(
            op_name=operation.value,
            method="POST",
            headers={"Content-Type": "application/json", "Content-MD5": _content_md5(body)},
            parameters={CALLS[operation].parameter: ""},
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
            if isinstance(error, TargetError) and error.block is BlockReason.CREDENTIALS and is_of_the_key(error.code):
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
        if exchange.is_not_sent:
            return NotSent("stopped before it was sent: the group had not confirmed the membership for too long")
        if isinstance(failure, (OSError, HTTPError, http.client.HTTPException)):
            return error_of_connection(failure, self._where, exchange.phase)
        # Its message may contain secrets; the place where it was raised is enough.
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
    """Returns the signed request out of the SDK, by an exception, instead of sending it."""

    def send(self, request: Any, **_: Any) -> NoReturn:
        raise _Signed(request)

    def open(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _headers(signed: Mapping[str, str | None]) -> dict[str, str]:
    """Return the headers to send. Raises `TargetError` if one has characters that cannot be sent: it is from the credentials."""
    headers = {name: value for name, value in signed.items() if value is not None}
    for name, value in headers.items():
        if _NOT_OF_A_HEADER.search(value):
            message = f"the header {name} cannot be sent: the credentials contain a line break, a space before them, or another character that no header takes"
            raise TargetError(message, block=BlockReason.CREDENTIALS)
    return headers


def _content_md5(body: bytes) -> str:
    """Return the header that protects the payload, which the signature leaves out (UNSIGNED-PAYLOAD)."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
