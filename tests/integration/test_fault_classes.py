"""What each kind of answer makes of a request: sent again without end, bisected, or made smaller.

The kinds of one table run at once, each against an index of its own in one worker.
"""

import random
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from tests.support.broker import GroupFactory, TopicFactory
from tests.support.emulator import Emulator, Fault, JournalEntry
from tests.support.proxy import Proxy
from tests.support.worker import (
    Scrape,
    Stage,
    StageFactory,
    WorkerFactory,
    WorkerProcess,
    versions_of,
    wait_for,
)
from worker.local.broker import Broker

RECORDS = 60
TIMES = 3  # how often each index answers so

TRANSIENT: dict[str, Fault] = {
    "400 from a gateway": {"status": 400, "body": "html"},
    "400, cut short": {"status": 400, "body": "truncated"},
    "408": {"status": 408},
    "408, cut short": {"status": 408, "body": "truncated"},
    "429": {"status": 429, "body": "xml"},
    "429 from a gateway": {"status": 429, "body": "html"},
    "429, cut short": {"status": 429, "body": "truncated"},
    "500": {"status": 500},
    "500, half of it applied": {"status": 500, "body": "xml", "applies": "half"},
    "502 from a gateway": {"status": 502, "body": "html"},
    "503": {"status": 503, "body": "xml"},
    "503, cut short, all of it applied": {"status": 503, "body": "truncated", "applies": "all"},
    "504": {"status": 504, "body": "html"},
    "reset before": {"reset": "before"},
    "reset after": {"reset": "after"},
}

REFUSED: dict[str, Fault] = {
    "400": {"status": 400, "message": "No such number."},
    "400 as XML": {"status": 400, "body": "xml"},
    "413": {"status": 413, "body": "xml", "message": "Too much."},
    "422": {"status": 422, "code": "InvalidArgument", "message": "Not this."},
}
BAD = ("key-7", "key-31")

# Until when an index is closed: seconds, or a moment that far ahead of the request.
PAUSES: dict[str, tuple[Fault, int | None]] = {
    "429, seconds": ({"status": 429, "retry_after": 1}, None),
    "503, seconds": ({"status": 503, "code": "TotalQpsLimitExceeded", "retry_after": 1, "body": "xml"}, None),
    "429, a date": ({"status": 429}, 10),
}


def rows() -> list[str]:
    return [*TRANSIENT, *REFUSED]


@dataclass
class Run:
    """One worker with a route for each row of the tables, after all was settled."""

    stages: dict[str, Stage]
    worker: WorkerProcess
    metrics: Scrape
    letters: list[Any]

    def letters_of(self, stage: Stage) -> list[tuple[bytes, dict[str, str]]]:
        """(key, headers as text) of the dead letters of one index."""
        found = [(one.key, {name: value.decode() for name, value in one.headers}) for one in self.letters]
        return [(key, headers) for key, headers in found if headers["oss-vectors.index"] == stage.index]


@contextmanager
def running(settings: Mapping[str, str], folder: Path) -> Iterator[WorkerProcess]:
    """A worker for several tests; it must not have written a traceback."""
    worker = WorkerProcess(settings, folder / "worker.log")
    try:
        yield worker
        assert [line for line in worker.log_lines() if "Traceback" in str(line)] == []
    finally:
        worker.kill()


@pytest.fixture(scope="module")
def run(
    broker: Broker,
    emulator: Emulator,
    admin: KafkaAdminClient,
    new_topic: TopicFactory,
    new_group: GroupFactory,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    """The whole table at once."""
    bucket, group, dead_letters = emulator.new_bucket(), new_group(), new_topic()
    stages: dict[str, Stage] = {}
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=5)) as producer:
        for number, name in enumerate(rows()):
            index = emulator.new_index(4, bucket=bucket, index=f"row{number}")[1]
            stages[name] = Stage(broker, emulator, admin, new_topic(1), dead_letters, group, bucket, index, 1)
            rule: Fault = {**(TRANSIENT | REFUSED)[name], "bucket": bucket, "index": index, "operation": "PutVectors"}
            if name in TRANSIENT:
                rule["count"] = TIMES
            else:
                rule["keys"] = list(BAD)
            emulator.fault(**rule)
            stages[name].publish_versions_with(
                producer, [(f"key-{one}", [float(one), 1.0, 2.0, 3.0]) for one in range(RECORDS)]
            )
    routes = {stage.topic: stage.index for stage in stages.values()}
    first = next(iter(stages.values()))
    settings = first.settings(
        routes=routes, delivery__max_in_flight=2, batch__max_records=25, dead_letter__limit_ratio=1
    )
    with running(settings, tmp_path_factory.mktemp("classes")) as worker:
        metrics = worker.wait_settled(RECORDS * len(stages))
        yield Run(stages, worker, metrics, first.dead_letters())


def put_codes(run: Run, stage: Stage) -> dict[str, float]:
    found = run.metrics.by("requests_total", "code", index=stage.index, operation="PutVectors")
    return {code: count for code, count in found.items() if count}


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_is_transient_is_sent_again_until_it_is_taken(run: Run, name: str) -> None:
    stage, rule = run.stages[name], TRANSIENT[name]

    assert stage.dump() == stage.model()
    assert run.letters_of(stage) == []
    code = str(rule["status"]) if "status" in rule else "error"
    assert put_codes(run, stage)[code] == TIMES
    unknown = run.metrics.total("unknown_outcomes_total", index=stage.index)
    assert unknown == (0 if rule.get("status") in (400, 408, 429) else TIMES)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_for_its_content_is_bisected_to_the_bad_records(run: Run, name: str) -> None:
    stage, rule = run.stages[name], REFUSED[name]

    assert stage.dump() == {key: vector for key, vector in stage.model().items() if key not in BAD}
    letters = dict(run.letters_of(stage))
    assert letters.keys() == {key.encode() for key in BAD}
    for key, told in letters.items():
        (refusal,) = [one for one in stage.requests("PutVectors") if one.keys == [key.decode()]]
        assert told["oss-vectors.reason"] == "refused"
        assert told["oss-vectors.http-status"] == str(rule["status"])
        assert told["oss-vectors.request-id"] == refusal.request_id
        assert told["__connect.errors.stage"] == "TASK_PUT"
        assert told["oss-vectors.error-code"] == refusal.code
        assert rule.get("message", "A fault on demand.") in told["__connect.errors.exception.message"]
    assert put_codes(run, stage).keys() == {"200", str(rule["status"])}
    assert run.metrics.total("bisects_total", index=stage.index) >= 4


def test_each_kind_is_counted_as_what_it_is(run: Run) -> None:
    kinds = {"throttled": 3 * TIMES, "server": 8 * TIMES, "network": 4 * TIMES, "timeout": 0}

    assert run.metrics.by("retries_total", "reason") == kinds
    assert run.metrics.imbalances() == {}


@pytest.mark.parametrize("name", PAUSES)
def test_nothing_goes_to_an_index_before_retry_after_is_up_and_then_one_probe(
    new_stage: StageFactory, start_worker: WorkerFactory, name: str
) -> None:
    rule, ahead = PAUSES[name]
    stage = new_stage()
    worker = start_worker(stage.settings(batch__max_records=5)).wait_ready()
    until = time.time() + (ahead or 0)
    pause: Fault = {**rule, "bucket": stage.bucket, "operation": "PutVectors", "count": 1}
    if ahead:
        pause["retry_after"] = formatdate(until, usegmt=True)
    stage.emulator.fault(**pause)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", latency_seconds=0.2)
    stage.publish_versions([("first", [1.0] * 4)])
    code = str(rule["status"])
    worker.wait_until(lambda m: m.by("requests_total", "code", operation="PutVectors").get(code), "it is told to wait")
    stage.publish_versions([(f"key-{one}", [float(one)] * 4) for one in range(100)])

    now = worker.wait_settled(101)

    assert stage.dump() == stage.model()
    throttled, probe, *others = sorted(stage.requests("PutVectors"), key=lambda one: one.started)
    if ahead:
        assert throttled.at < int(until)  # else the situation did not come about
        assert probe.at >= int(until)
    else:
        assert probe.started - ended(throttled) >= 1
    assert min(one.started for one in others) > ended(probe)
    assert now.outcomes() == {"put": 101}


def ended(entry: JournalEntry) -> float:
    assert entry.ended is not None
    return entry.ended


def test_after_a_413_batches_stay_smaller(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(partitions=1, dimension=64)
    most = 20_000
    stage.emulator.limits(bucket=stage.bucket, max_body_bytes=most)
    stage.publish_versions(wide(300, 64))
    worker = start_worker(stage.settings())
    worker.wait_settled(300)
    before = all_puts(stage)
    assert 413 in {one.status for one in before}

    stage.publish_versions(wide(300, 64, first=300))
    now = worker.wait_settled(600)

    assert stage.dump().keys() == stage.model().keys()
    later = all_puts(stage)[len(before) :]
    assert {one.status for one in later} == {200}
    assert max(one.body_bytes for one in later) <= most
    assert now.outcomes() == {"put": 600}
    assert now.total("batches_total", reason="bytes") > 0


def all_puts(stage: Stage) -> list[JournalEntry]:
    """Those too that were refused before their index was read."""
    return [one for one in stage.emulator.requests(bucket=stage.bucket) if one.operation == "PutVectors"]


def wide(count: int, dimension: int, first: int = 0) -> list[tuple[str, list[float] | None]]:
    """Vectors of random numbers, some eleven bytes each."""
    drawn = random.Random(first)
    return [(f"key-{first + one}", [drawn.random() for _ in range(dimension)]) for one in range(count)]


def test_after_two_write_time_outs_batches_are_halved_and_stay_smaller(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1, dimension=4096)
    versions = wide(240, 4096)
    with Proxy(stage.emulator.port) as proxy:
        # A small window here, so that what waits in the buffers is little beside a body of 8 MB.
        proxy._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        worker = start_worker(
            stage.settings(
                oss__endpoint=f"http://127.0.0.1:{proxy.port}",
                oss__write_timeout_seconds=0.5,
                batch__max_age_seconds=5,
                delivery__max_in_flight=1,
            )
        ).wait_ready()
        with proxy.swallowing():
            stage.publish_versions(versions[:200])
            warning = worker.wait_line("a body was too large for the connection; batches stay smaller for a while")
            assert worker.metrics().total("retries_total", reason="timeout") >= 1
        now = worker.wait_settled(200)
        assert now.total("bisects_total") >= 1
        before = len(stage.requests("PutVectors"))
        largest = max(one.body_bytes for one in stage.requests("PutVectors"))
        stage.publish_versions(versions[200:])
        now = worker.wait_settled(240)

    assert stage.dump().keys() == stage.model().keys()
    assert largest <= warning["max_bytes"] + 100_000
    assert now.outcomes() == {"put": 240}
    assert before >= 2


def test_an_outage_of_network_and_service_by_turns_is_waited_out(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    with Proxy(stage.emulator.port) as proxy:
        worker = start_worker(
            stage.settings(
                oss__endpoint=f"http://127.0.0.1:{proxy.port}", batch__max_records=20, oss__read_timeout_seconds=1
            )
        ).wait_ready()
        no_answer = stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", hang=True)
        stage.publish_versions(versions_of(keys=50, count=300))

        def was_cut() -> bool:
            """Cut what is open now, which may be no request."""
            proxy.cut()
            return worker.metrics().total("retries_total", reason="network") > 0

        wait_for(was_cut, "a request that was under way is cut")
        stage.emulator.clear_fault(no_answer)
        with proxy.swallowing():
            worker.wait_until(lambda m: m.total("retries_total", reason="timeout") > 0, "nothing is answered")
        now = worker.wait_settled(300)

    assert stage.dump() == stage.model()
    assert now.outcomes().keys() <= {"put", "superseded"}
    assert now.total("unknown_outcomes_total") > 0
