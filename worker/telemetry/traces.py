"""Traces: a span for each request to the service and for each dead letter, where OpenTelemetry is installed and wanted.

This module imports nothing of OpenTelemetry. Without the extra `otel`, or without an endpoint to export to, a span is one
call that does nothing.
"""

import importlib
import logging
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from worker.errors import SinkError
from worker.extras import pip_command
from worker.ports import DeadLetter, Message, Operation

log = logging.getLogger("worker.traces")

_PROTOCOL: Final = "http/protobuf"  # of OTLP; the extra has no other exporter


class Span(Protocol):
    """A span that has begun. One that is not ended is not exported."""

    def answered(self, status: int, error: SinkError | None) -> None:
        """End the span of a request, with the HTTP status (0 where no answer came) and the error, if there was one."""

    def written(self, error: BaseException | None) -> None:
        """End the span of a dead letter, with what failed."""


class Traces(Protocol):
    """Where spans begin. Nothing of it raises, and nothing waits but `close`."""

    def request(self, operation: Operation, index: str, messages: Iterable[Message], size: int) -> Span:
        """Begin the span of a request with these records, linked to the traces that their headers name; `size` is in bytes."""

    def dead_letter(self, topic: str, dead_letter: DeadLetter) -> Span:
        """Begin the span of the write of a dead letter to `topic`, linked to the trace that the record's headers name."""

    def flush(self) -> None:
        """Begin to export what is left; no span begins after that. Returns at once."""

    def close(self, seconds: float) -> None:
        """Wait so long for what is left to be exported."""


class _NoSpan:
    """Nothing is recorded."""

    def answered(self, status: int, error: SinkError | None) -> None:
        """Do nothing."""

    def written(self, error: BaseException | None) -> None:
        """Do nothing."""


NO_SPAN: Final = _NoSpan()


class _NoTraces:
    """Nothing is traced."""

    def request(self, operation: Operation, index: str, messages: Iterable[Message], size: int) -> Span:  # noqa: ARG002 - the protocol's
        return NO_SPAN

    def dead_letter(self, topic: str, dead_letter: DeadLetter) -> Span:  # noqa: ARG002 - the protocol's
        return NO_SPAN

    def flush(self) -> None:
        """Do nothing."""

    def close(self, seconds: float) -> None:
        """Do nothing."""


NO_TRACES: Final = _NoTraces()


def make_traces(environ: Mapping[str, str]) -> Traces:
    """Return the traces that OpenTelemetry's own variables ask for. Raises nothing: the worker works without traces."""
    if not _is_wanted(environ):
        return NO_TRACES
    if problem := _why_not(environ):
        log.warning("traces are off", extra={"error": problem})
        return NO_TRACES
    try:
        made: Traces = importlib.import_module("worker.telemetry.otel").OtelTraces.from_environment(environ)
    except ModuleNotFoundError as error:
        problem = f'{error.name} is not installed; traces need the extra "otel": {pip_command("otel")}'
        log.warning("traces are off", extra={"error": problem})
        return NO_TRACES
    except Exception as error:  # a variable that OpenTelemetry does not understand
        log.warning("traces are off", extra={"error": f"{type(error).__name__}: {error}"})
        return NO_TRACES
    log.info("traces are exported")
    return made


def _is_wanted(environ: Mapping[str, str]) -> bool:
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    is_disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporters = [name.strip() for name in (environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")]
    return bool(endpoint) and not is_disabled and "otlp" in exporters


def _why_not(environ: Mapping[str, str]) -> str:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environ.get(name):
            return "" if protocol == _PROTOCOL else f"{name} is {protocol!r}; only {_PROTOCOL} is supported"
    return ""
