"""Whether traces are exported, as OpenTelemetry's own variables say, and that they cost nothing where they are not."""

import importlib
import subprocess
import sys
from typing import Any

import pytest

from worker.ports import BareMessage, Operation
from worker.telemetry.otel import OtelTraces
from worker.telemetry.traces import NO_SPAN, NO_TRACES, make_traces

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "vectors"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        ENDPOINT | {"OTEL_SDK_DISABLED": "true"},
        ENDPOINT | {"OTEL_SDK_DISABLED": " TRUE "},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "console"},
    ],
    ids=str,
)
def test_without_an_endpoint_or_where_they_are_not_wanted_there_are_none(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert make_traces(environ) is NO_TRACES
    assert caplog.records == []


@pytest.mark.parametrize(
    "environ",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "otlp"},
        ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
    ],
    ids=str,
)
def test_with_an_endpoint_they_are_exported(environ: dict[str, str]) -> None:
    made = make_traces(environ)
    assert isinstance(made, OtelTraces)
    made.close(10.0)


def test_a_protocol_that_is_not_there_is_said_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert make_traces(ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}) is NO_TRACES
    [line] = caplog.records
    assert line.__dict__["error"] == "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; only http/protobuf is supported"


def test_where_the_extra_is_missing_the_log_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "worker.telemetry.otel")
    monkeypatch.setattr(sys, "meta_path", [_Without(), *sys.meta_path])
    importlib.invalidate_caches()
    assert make_traces(ENDPOINT) is NO_TRACES
    [line] = caplog.records
    assert line.__dict__["error"].startswith(
        'opentelemetry is not installed; traces need the extra "otel": pip install'
    )


class _Without:
    """A finder by which nothing of OpenTelemetry is found."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_variable_that_makes_no_sense_to_the_sdk_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> OtelTraces:
        raise ValueError("OTEL_BSP_MAX_QUEUE_SIZE must be positive")

    monkeypatch.setattr(OtelTraces, "from_environment", fail)
    assert make_traces(ENDPOINT) is NO_TRACES
    assert [line.__dict__["error"] for line in caplog.records] == [
        "ValueError: OTEL_BSP_MAX_QUEUE_SIZE must be positive"
    ]


def test_without_traces_no_record_is_looked_at_and_no_span_is_made() -> None:
    looked_at: list[int] = []

    def message(offset: int) -> BareMessage:
        looked_at.append(offset)
        return BareMessage(offset, 1)

    messages = map(message, range(3))
    assert NO_TRACES.request(Operation.PUT, "docs", messages, 1) is NO_SPAN
    assert looked_at == []


def test_a_worker_without_an_endpoint_imports_nothing_of_opentelemetry() -> None:
    code = """
import sys
from worker.app import wiring
from worker.telemetry.traces import make_traces
make_traces({})
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
