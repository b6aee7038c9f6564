"""A stand-in for an OpenTelemetry collector: a server on 127.0.0.1 that speaks OTLP over HTTP and decodes what comes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.bounded import join, thread


class Collector(ThreadingHTTPServer):
    """Keeps the spans that were exported. While `status` is not 200 it refuses them; while `hangs` it gives no answer."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.status = 200
        self.hangs = False
        self.end = threading.Event()

    @property
    def url(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self.server_port}"

    def named(self, start: str) -> list[Span]:
        """Return the spans whose names start so."""
        return [span for span in self.spans if span.name.startswith(start)]


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_POST(self) -> None:
        """Take an export."""
        collector = self.server
        assert isinstance(collector, Collector)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        collector.paths.append(self.path)
        if collector.hangs:
            collector.end.wait(60)
            return
        if collector.status == 200:
            assert self.headers["Content-Type"] == "application/x-protobuf"
            _keep(collector, ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(collector.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Keep the test's output quiet."""


def _keep(collector: Collector, request: ExportTraceServiceRequest) -> None:
    for of_resource in request.resource_spans:
        collector.resources.append({one.key: one.value.string_value for one in of_resource.resource.attributes})
        for of_scope in of_resource.scope_spans:
            collector.spans += of_scope.spans


def links_of(span: Span) -> set[tuple[str, str]]:
    """Return the trace and span ids that a span is linked to, in hex."""
    return {(link.trace_id.hex(), link.span_id.hex()) for link in span.links}


def attributes_of(span: Span) -> dict[str, Any]:
    """Return a span's attributes."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


@contextmanager
def running_collector() -> Iterator[Collector]:
    """A collector that is gone at the end."""
    collector = Collector()
    serving = thread(collector.serve_forever, name="collector")
    try:
        yield collector
    finally:
        collector.end.set()
        collector.shutdown()
        collector.server_close()
        join(serving)
