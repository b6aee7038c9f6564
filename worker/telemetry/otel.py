"""Traces by the OpenTelemetry SDK, of the extra `otel`. Its own environment variables configure it.

Spans wait in a bounded queue, and a thread of the SDK exports them. If the collector is away or hangs, spans are lost, and
nothing else happens. No span has a text of a record.
"""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from worker import __version__
from worker.errors import NotSent, SinkError
from worker.ports import DeadLetter, Message, Operation
from worker.telemetry.service import words_of
from worker.telemetry.traces import NO_SPAN, Span
from worker.words import clean

log = logging.getLogger("worker.traces")

_SERVICE_NAME: Final = "oss-vectors-worker"  # where the environment names none
_MOST_LINKS: Final = 10_000  # of a span: each record of a batch may be of a trace of its own; the SDK's default is 128
_HEADER_BYTES: Final = 8192  # of a header that is read; a tracestate has 512


class OtelTraces:
    """See `worker.telemetry.traces.Traces`. Thread-safe."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("oss-vectors-worker", __version__)
        self._propagator = propagate.get_global_textmap()
        self._names = frozenset(self._propagator.fields)
        self._lock = threading.Lock()
        self._closing: threading.Thread | None = None
        self._has_failed = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "OtelTraces":
        """Return the traces that are exported as the environment says. Raises what the SDK raises."""
        _take_over_log()
        names = "" if "service.name" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "") else _SERVICE_NAME
        own = {"service.version": __version__}
        if names and not environ.get("OTEL_SERVICE_NAME"):
            own["service.name"] = names
        limits = SpanLimits(max_links=None if environ.get("OTEL_SPAN_LINK_COUNT_LIMIT") else _MOST_LINKS)
        # The SDK's own handler at exit waits for an exporter that hangs.
        provider = TracerProvider(resource=Resource.create(own), span_limits=limits, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(_Exporter(OTLPSpanExporter())))
        return cls(provider)

    def request(self, operation: Operation, index: str, messages: Iterable[Message], size: int) -> Span:
        """Begin the span of a request with these records."""
        try:
            found = list(messages)
            attributes = {
                "oss_vectors.operation": operation.value,
                "oss_vectors.index": index,
                "oss_vectors.records": len(found),
                "http.request.method": "POST",
                "http.request.body.size": size,
            }
            return _Span(self._begin(f"{operation.value} {index}", SpanKind.CLIENT, found, attributes))
        except Exception as error:  # whatever a header contains, and whatever the SDK does
            return self._failed(error)

    def dead_letter(self, topic: str, dead_letter: DeadLetter) -> Span:
        """Begin the span of the write of a dead letter."""
        try:
            partition = dead_letter.assignment.partition
            attributes = {
                "messaging.system": "kafka",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": topic,
                "oss_vectors.reason": dead_letter.reason.value,
                "oss_vectors.index": dead_letter.index,
                "oss_vectors.source.topic": partition.topic,
                "oss_vectors.source.partition": partition.partition,
                "oss_vectors.source.offset": dead_letter.offset,
            }
            return _Span(self._begin(f"send {topic}", SpanKind.PRODUCER, [dead_letter.message], attributes))
        except Exception as error:  # whatever a header contains, and whatever the SDK does
            return self._failed(error)

    def flush(self) -> None:
        """Begin to export what is left, on a thread that keeps no process from ending."""
        with self._lock:
            if self._closing is None:
                self._closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
                self._closing.start()

    def close(self, seconds: float) -> None:
        """Wait so long for what is left to be exported."""
        self.flush()
        if self._closing is not None:
            self._closing.join(seconds)

    def _begin(
        self, name: str, kind: SpanKind, messages: Sequence[Message], attributes: Mapping[str, str | int]
    ) -> trace.Span:
        # An empty context: the span is the root of a trace of its own. The records' traces are linked, since there are many.
        return self._tracer.start_span(name, Context(), kind, attributes, self._links(messages))

    def _links(self, messages: Sequence[Message]) -> list[Link]:
        """Return a link to each trace context that the headers name, each once."""
        links: dict[tuple[int, int], Link] = {}
        for message in messages:
            if not message.headers:
                continue
            carrier = {
                name: value.decode("utf-8", "replace")
                for name, value in message.headers
                if name in self._names and value is not None and len(value) <= _HEADER_BYTES
            }
            if not carrier:
                continue
            found = trace.get_current_span(self._propagator.extract(carrier, Context())).get_span_context()
            if found.is_valid:
                links.setdefault((found.trace_id, found.span_id), Link(found))
        return list(links.values())

    def _failed(self, error: Exception) -> Span:
        if not self._has_failed:
            self._has_failed = True
            log.warning(
                "a span was not recorded; later ones may miss without a line", extra={"error": type(error).__name__}
            )
        return NO_SPAN


class _Span:
    """A span of the SDK, ended in the worker's words."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def answered(self, status: int, error: SinkError | None) -> None:
        """End the span of a request. One that was not sent is no request."""
        if isinstance(error, NotSent):
            return
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if error is not None:
            self._fail(error.code or (str(status) if status else type(error).__name__), words_of(error))
            if error.request_id:
                self._span.set_attribute("oss_vectors.request_id", error.request_id)
        self._span.end()

    def written(self, error: BaseException | None) -> None:
        """End the span of a dead letter. One that was not sent is no write."""
        if isinstance(error, NotSent):
            return
        if error is not None:
            self._fail(type(error).__name__, type(error).__name__)
        self._span.end()

    def _fail(self, kind: str, words: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, words))


class _Exporter(SpanExporter):
    """Lets the log say once that exporting fails, and once that it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans."""
        result = self._exporter.export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            log.warning("traces are not exported", extra={"error": clean(_LAST_WORDS.text) or "no reason is known"})
        elif self._fails and not fails:
            log.info("traces are exported again")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        """End a retry that waits."""
        self._exporter.shutdown()


class _LastWords(logging.Handler):
    """Keeps the last message of the SDK's own loggers, which would fill the log while the collector is away."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


_LAST_WORDS: Final = _LastWords(logging.WARNING)


def _take_over_log() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    if _LAST_WORDS not in logger.handlers:
        logger.addHandler(_LAST_WORDS)
