"""Traces of a real worker, exported to a collector that decodes them: linked to the records' traces, and never in the way."""

import time

import pytest

from tests.support.collector import attributes_of, links_of, running_collector
from tests.support.worker import BUSY_S, Record, StageFactory, WorkerFactory, vector_record

VECTOR = [1.0, 2.0, 3.0, 4.0]


def ids(number: int) -> tuple[str, str]:
    return f"{number:032x}", f"{number:016x}"


def traced(number: int, value: bytes | None = None) -> Record:
    """A record of a trace of its own, as an instrumented producer sends one."""
    trace_id, span_id = ids(number)
    key = f"key-{number}"
    context = (("traceparent", f"00-{trace_id}-{span_id}-01".encode()), ("tracestate", b"vendor=1"))
    return Record(key.encode(), vector_record(key, VECTOR).value if value is None else value, context)


def test_each_request_and_dead_letter_has_a_span_that_is_linked_to_the_records_traces(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    good = [traced(number) for number in range(1, 201)]
    stage.publish([*good, traced(900, b"{"), vector_record("untraced", VECTOR)])
    with running_collector() as collector:
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "vectors-of-docs"}
        worker = start_worker(stage.settings(batch__max_records=150) | otel)
        worker.wait_settled(202)
        assert worker.terminate() == 0

        puts = collector.named("PutVectors ")
        assert set().union(*map(links_of, puts)) == {ids(number) for number in range(1, 201)}
        assert len(puts) == len(stage.requests("PutVectors"))
        found = [attributes_of(span) for span in puts]
        assert sum(int(one["oss_vectors.records"]) for one in found) == 201
        assert {one["http.response.status_code"] for one in found} == {200}
        assert {span.name for span in puts} == {f"PutVectors {found[0]['oss_vectors.index']}"}
        [dead] = collector.named("send ")
        assert links_of(dead) == {ids(900)}
        assert attributes_of(dead)["oss_vectors.reason"] == "malformed"
        assert {one["service.name"] for one in collector.resources} == {"vectors-of-docs"}
        assert set(collector.paths) == {"/v1/traces"}
    [letter] = stage.dead_letters()
    trace_id, span_id = ids(900)
    assert list(letter.headers)[:2] == [
        ("traceparent", f"00-{trace_id}-{span_id}-01".encode()),
        ("tracestate", b"vendor=1"),
    ]


@pytest.mark.parametrize("trouble", ["hangs", "is away"])
def test_a_collector_that_hangs_or_is_away_stops_nothing(
    new_stage: StageFactory, start_worker: WorkerFactory, trouble: str
) -> None:
    stage = new_stage()
    stage.publish([traced(number) for number in range(1, 51)])
    with running_collector() as collector:
        collector.hangs = True
        url = collector.url if trouble == "hangs" else "http://127.0.0.1:9"
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        worker = start_worker(stage.settings(shutdown__drain_seconds=15) | otel)
        worker.wait_settled(50)
        began = time.monotonic()
        assert worker.terminate() == 0
        assert time.monotonic() - began < 15 + BUSY_S
        assert len(stage.dump()) == 50
        assert [line["message"] for line in worker.log_lines() if line.get("level") == "error"] == []
