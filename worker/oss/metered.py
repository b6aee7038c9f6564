"""The metrics of requests to one index: a sink around a sink."""

from collections.abc import Callable
from typing import TypeVar

from worker.errors import BlockReason, NotSent, SinkError, TargetError
from worker.oss.dialect import DESCRIBED
from worker.ports import Operation, Sink
from worker.records.target import Target
from worker.telemetry.metrics import Metrics

T = TypeVar("T")

_NOT_BELIEVED = "not_believed"
"""The code of a 2xx that did not show that the service has done the operation: a page of a proxy, or an error with a status of
success. By its status it would count as accepted."""


class MeteredSink:
    """Passes each request on, and counts it by code, duration and bytes. One that did not leave is not counted.

    The code is the HTTP status, `error` where no answer came, and `not_believed` for a 2xx that did not show that the service has done
    what was asked. So a code that begins with 2 always means that a request was accepted.
    """

    def __init__(self, sink: Sink, index: str, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._index = index
        self._metrics = metrics
        self._clock = clock
        self._in_flight = metrics.in_flight.labels(index)
        self._uploaded_bytes = metrics.uploaded_bytes.labels(index)

    def put(self, body: bytes) -> int:
        """Send a PutVectors body; returns the HTTP status."""
        return self._write(Operation.PUT, self._sink.put, body)

    def delete(self, body: bytes) -> int:
        """Send a DeleteVectors body; returns the HTTP status."""
        return self._write(Operation.DELETE, self._sink.delete, body)

    def describe(self, index: str) -> Target:
        """Ask for an index's dimension, metric and metadata keys."""
        return self._observed(Operation.DESCRIBE, lambda: (DESCRIBED, self._sink.describe(index)))

    def abort(self, thread_id: int) -> None:
        """Cut the connection on which that thread waits for an answer, if it does."""
        self._sink.abort(thread_id)

    def close(self) -> None:
        """Close all connections."""
        self._sink.close()

    def _write(self, operation: Operation, send: Callable[[bytes], int], body: bytes) -> int:
        was_sent = True
        self._in_flight.inc()
        try:
            return self._observed(operation, lambda: (status := send(body), status))
        except SinkError as error:
            was_sent = not _stayed_here(error)
            raise
        finally:
            self._in_flight.dec()
            if was_sent:
                self._uploaded_bytes.inc(len(body))

    def _observed(self, operation: Operation, request: Callable[[], tuple[int, T]]) -> T:
        started = self._clock()
        code: str | None = "error"
        try:
            status, result = request()
            code = str(status)
        except SinkError as error:
            code = None if _stayed_here(error) else _code_of(error)
            raise
        else:
            return result
        finally:
            if code is not None:
                self._metrics.request_duration.labels(operation.value).observe(self._clock() - started)
                self._metrics.requests.labels(self._index, operation.value, code).inc()


def _stayed_here(error: SinkError) -> bool:
    """Return whether nothing was sent: the lease had run out, or there are no credentials that can be sent."""
    has_no_credentials = isinstance(error, TargetError) and error.block is BlockReason.CREDENTIALS and not error.status
    return has_no_credentials or isinstance(error, NotSent)


def _code_of(error: SinkError) -> str:
    """Return the label `code` of a request that failed: the worker's view of the answer, and its status where both agree."""
    if not error.status:
        return "error"
    return _NOT_BELIEVED if 200 <= error.status <= 299 else str(error.status)
