"""What is counted of a request: code, duration and bytes, unless it did not leave."""

from collections.abc import Callable

import pytest

from tests.support.emulator import Fault
from tests.support.fakes import FakeClock, FakeSink, Request, Stage
from worker.errors import BlockReason, NotSent, SinkError, TargetError, Transient
from worker.ledger import Ledger
from worker.oss.metered import MeteredSink
from worker.records.target import Target
from worker.telemetry.metrics import Metrics
from worker.telemetry.state import Status

INDEX = "docs"
BODY = b'{"indexName":"docs","vectors":[{"key":"a"}]}'
KEYS = b'{"indexName":"docs","keys":["a"]}'


class Bench:
    """A metered sink over the fake one; a request takes two seconds."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.may_send = True
        self.in_flight: list[float | None] = []
        status = Status(0.0)
        self.metrics = Metrics(Ledger(["vectors"], self.clock), status, ["vectors"], [INDEX])
        self.service = FakeSink(Target(INDEX, 2, "cosine"), waypoint=self._waypoint, may_send=lambda: self.may_send)
        self.sink = MeteredSink(self.service, INDEX, self.metrics, self.clock)

    def _waypoint(self, stage: Stage, _request: Request) -> None:
        if stage == "arrived":
            self.clock.advance(2.0)
            self.in_flight.append(self.value("requests_in_flight"))

    def value(self, name: str, **labels: str) -> float | None:
        by_index = {} if name.startswith("request_duration") else {"index": INDEX}
        return self.metrics.registry.get_sample_value(f"oss_vectors_{name}", by_index | labels)

    def codes(self, operation: str) -> dict[str, float]:
        """The requests of an operation by code, without codes that none has."""
        samples = [sample for family in self.metrics.requests.collect() for sample in family.samples]
        return {
            sample.labels["code"]: sample.value
            for sample in samples
            if sample.name == "oss_vectors_requests_total" and sample.labels["operation"] == operation and sample.value
        }


def test_each_operation_is_counted_by_its_status_and_duration() -> None:
    bench = Bench()
    assert (bench.sink.put(BODY), bench.sink.delete(KEYS)) == (200, 204)
    bench.sink.describe(INDEX)
    for operation, code in (("PutVectors", "200"), ("DeleteVectors", "204"), ("GetVectorIndex", "200")):
        assert bench.value("requests_total", operation=operation, code=code) == 1
        assert bench.value("request_duration_seconds_sum", operation=operation) == 2.0
    assert bench.value("uploaded_bytes_total") == len(BODY) + len(KEYS)
    assert (bench.in_flight, bench.value("requests_in_flight")) == ([1, 1, 0], 0)


@pytest.mark.parametrize(("fault", "code"), [({"status": 503}, "503"), ({"reset": "before"}, "error")])
def test_a_request_that_fails_is_counted_with_its_bytes(fault: dict[str, object], code: str) -> None:
    bench = Bench()
    bench.service.fault(**fault)  # type: ignore[arg-type]  # a case of the table
    with pytest.raises(SinkError):
        bench.sink.put(BODY)
    assert bench.value("requests_total", operation="PutVectors", code=code) == 1
    assert (bench.value("uploaded_bytes_total"), bench.value("requests_in_flight")) == (len(BODY), 0)


PAGE: Fault = {"status": 200, "headers": {"Content-Type": "text/html"}, "content": "<h1>maintenance</h1>"}


@pytest.mark.parametrize(
    ("operation", "send"),
    [
        ("PutVectors", lambda sink: sink.put(BODY)),
        ("DeleteVectors", lambda sink: sink.delete(KEYS)),
        ("GetVectorIndex", lambda sink: sink.describe(INDEX)),
    ],
)
def test_a_page_with_200_is_not_counted_as_accepted(operation: str, send: Callable[[MeteredSink], object]) -> None:
    bench = Bench()
    bench.service.fault(**PAGE)
    with pytest.raises(Transient):
        send(bench.sink)
    assert bench.codes(operation) == {"not_believed": 1}


def test_an_index_that_is_being_made_is_not_counted_as_described() -> None:
    bench = Bench()
    bench.service.status = "creating"
    with pytest.raises(Transient):
        bench.sink.describe(INDEX)
    assert bench.codes("GetVectorIndex") == {"not_believed": 1}


def test_a_request_that_did_not_leave_is_not_counted() -> None:
    bench = Bench()
    bench.may_send = False
    with pytest.raises(NotSent):
        bench.sink.put(BODY)
    assert bench.value("request_duration_seconds_count", operation="PutVectors") == 0
    assert (bench.value("uploaded_bytes_total"), bench.value("requests_in_flight")) == (0, 0)


def test_a_request_without_credentials_is_not_counted() -> None:
    """Its topics are blocked, which has an alert; "error" would say that the service does not answer."""
    bench = Bench()
    bench.service.next_answers = [TargetError("no credentials: none", block=BlockReason.CREDENTIALS)]
    with pytest.raises(TargetError):
        bench.sink.put(BODY)
    assert (bench.codes("PutVectors"), bench.value("uploaded_bytes_total")) == ({}, 0)
