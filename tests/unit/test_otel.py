"""Spans of requests and dead letters, in memory: their links, their words, and headers that are no trace context."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.support.collector import Collector, links_of, running_collector
from tests.support.fakes import FakeClock
from tests.unit.samples import FakeMessage, opened, rejected
from worker.errors import NotSent, RetryReason, SinkError, Transient
from worker.ledger import Ledger
from worker.ports import BareMessage, Operation
from worker.telemetry.otel import OtelTraces, _Exporter

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
IDS = (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)

Headers = Sequence[tuple[str, bytes | None]]


class Message:
    """A message with these headers."""

    offset, timestamp, key, value = 7, 0, None, None

    def __init__(self, headers: Headers) -> None:
        self.headers = headers


class Bench:
    """Traces whose spans stay in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = OtelTraces(self.provider)

    def request(self, *headers: Headers, status: int = 200, error: SinkError | None = None) -> ReadableSpan:
        messages = [Message(each) for each in headers]
        self.traces.request(Operation.PUT, "docs", messages, 100).answered(status, error)
        [span] = self.exporter.get_finished_spans()
        return span


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def test_a_request_is_a_trace_of_its_own_that_is_linked_to_each_of_its_records_once() -> None:
    other = PARENT.replace(b"331-01", b"332-00")
    span = Bench().request(
        [("traceparent", PARENT), ("tracestate", b"a=1")], [("traceparent", PARENT)], [], [("traceparent", other)]
    )
    assert (span.name, span.kind, span.parent) == ("PutVectors docs", SpanKind.CLIENT, None)
    assert linked(span) == [IDS, (IDS[0], IDS[1] + 1)]
    assert span.links[0].context.trace_state.get("a") == "1"
    assert dict(span.attributes or {}) == {
        "oss_vectors.operation": "PutVectors",
        "oss_vectors.index": "docs",
        "oss_vectors.records": 4,
        "http.request.method": "POST",
        "http.request.body.size": 100,
        "http.response.status_code": 200,
    }


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("other", b"x")],
        [("traceparent", None)],
        [("traceparent", b"")],
        [("traceparent", b"\xff\xfe")],
        [("traceparent", b"00-00000000000000000000000000000000-0000000000000000-01")],
        [("traceparent", PARENT + b"0" * 100_000)],
        [("tracestate", b"a=1")],
        [("baggage", b"%ff=\xff;;,,=")],
        [("trace\udcffparent", PARENT)],
    ],
    ids=lambda headers: repr(headers)[:40],
)
def test_headers_that_are_no_trace_context_are_no_link(headers: Headers) -> None:
    assert linked(Bench().request(headers)) == []


def test_a_request_that_fails_says_why_without_the_words_of_the_service() -> None:
    error = Transient(
        "the vector of a secret record", kind=RetryReason.SERVER, status=503, code="Busy", request_id="R1"
    )
    span = Bench().request(status=503, error=error)
    assert (span.status.is_ok, span.status.description) == (False, "503 Busy")
    attributes = dict(span.attributes or {})
    assert [
        attributes[f"{name}"] for name in ("error.type", "http.response.status_code", "oss_vectors.request_id")
    ] == [
        "Busy",
        503,
        "R1",
    ]
    assert "secret" not in span.to_json()


def test_a_request_that_was_not_sent_has_no_span() -> None:
    bench = Bench()
    bench.traces.request(Operation.PUT, "docs", [], 1).answered(0, NotSent("the lease ran out"))
    assert bench.exporter.get_finished_spans() == ()


def test_a_dead_letter_is_linked_to_the_trace_of_its_record() -> None:
    bench = Bench()
    assignment = opened(Ledger(["vectors"], FakeClock()))
    letter = rejected(assignment, FakeMessage(7, headers=[("traceparent", PARENT)]))
    bench.traces.dead_letter("vectors.dlq", letter).written(None)
    bench.traces.dead_letter("vectors.dlq", letter).written(OSError("of the broker"))
    written, failed = bench.exporter.get_finished_spans()
    assert (written.name, written.kind, linked(written)) == ("send vectors.dlq", SpanKind.PRODUCER, [IDS])
    assert (written.status.is_ok, failed.status.description) == (True, "OSError")


def test_a_fault_of_the_tracing_costs_a_span_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("a fault")

    monkeypatch.setattr(bench.traces._propagator, "extract", fail)
    for _ in range(2):
        bench.traces.request(Operation.PUT, "docs", [Message([("traceparent", PARENT)])], 1).answered(200, None)
    assert [record.__dict__["error"] for record in caplog.records] == ["ValueError"]


class Refusing(SpanExporter):
    """Answers in this order."""

    def __init__(self, *results: SpanExportResult) -> None:
        self.results = list(results)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self.results.pop(0)


def test_a_collector_that_is_away_is_one_line_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    good, bad = SpanExportResult.SUCCESS, SpanExportResult.FAILURE
    exporter = _Exporter(Refusing(good, bad, bad, bad, good, good))
    for _ in range(6):
        exporter.export([])
    assert [record.getMessage() for record in caplog.records] == [
        "traces are not exported",
        "traces are exported again",
    ]


def environment(collector: Collector, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **more}


def test_each_record_of_a_large_batch_is_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_collector() as collector:
        for name, value in environment(collector).items():
            monkeypatch.setenv(name, value)
        traces = OtelTraces.from_environment(environment(collector))
        records = [
            Message([("traceparent", f"00-{number:032x}-{number:016x}-01".encode())]) for number in range(1, 501)
        ]
        traces.request(Operation.PUT, "docs", records, 1).answered(200, None)
        traces.close(30.0)
        [span] = collector.spans
        assert len(links_of(span)) == 500
        assert collector.resources[0]["service.name"] == "oss-vectors-worker"


def test_closing_ends_in_time_though_the_collector_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_collector() as collector:
        collector.hangs = True
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        traces = OtelTraces.from_environment(environment(collector))
        traces.request(Operation.PUT, "docs", [BareMessage(1, 1)], 1).answered(200, None)
        closed = threading.Event()

        def close() -> None:
            traces.close(0.2)
            closed.set()

        threading.Thread(target=close, daemon=True).start()
        assert closed.wait(20.0)  # the exporter alone would wait for 10 s, and the SDK for 30
        assert traces._closing is not None
        assert traces._closing.is_alive()
