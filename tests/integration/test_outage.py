"""An outage is waited out: everything is written in the end, in order, and nothing is dead-lettered."""

import pytest

from tests.support.emulator import Fault
from tests.support.worker import StageFactory, WatchedBooks, WorkerFactory, key_overlaps, versions_of, wait_for

OUTAGES: dict[str, tuple[Fault, str]] = {
    "503": ({"status": 503}, "server"),
    "502 without a body to read": ({"status": 502, "body": "html"}, "server"),
    "500, half applied": ({"status": 500, "applies": "half"}, "server"),
    "503, too many requests": ({"status": 503, "code": "TotalQpsLimitExceeded"}, "throttled"),
    "429": ({"status": 429}, "throttled"),
    "reset before": ({"reset": "before"}, "network"),
    "reset after": ({"reset": "after"}, "network"),
    "no answer": ({"hang": True, "applies": "all"}, "timeout"),
}


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_is_waited_out_while_polling_goes_on(
    new_stage: StageFactory, start_worker: WorkerFactory, name: str
) -> None:
    rule, reason = OUTAGES[name]
    stage = new_stage(partitions=2)
    scoped: Fault = {**rule, "bucket": stage.bucket, "operation": "PutVectors"}
    stage.emulator.fault(**scoped)
    stage.publish_versions(versions_of(keys=100, count=400))
    worker = start_worker(
        stage.settings(
            batch__max_records=50,
            oss__read_timeout_seconds=0.3 if reason == "timeout" else 30,
            dead_letter__isolated_attempts=1000,  # more than the outage lasts
        )
    )

    with WatchedBooks(worker) as books:
        during = worker.wait_until(lambda m: m.total("retries_total", reason=reason) >= 4, "requests are sent again")
        polled_at = during.total("last_poll_timestamp_seconds")
        later = worker.wait_until(lambda m: m.total("last_poll_timestamp_seconds") > polled_at + 0.5, "polling goes on")
        assert later.settled == 0
        assert (worker.readyz().status, worker.healthz().status) == (200, 200)
        assert sum(stage.committed().values()) == 0
        stage.emulator.clear_faults(stage.bucket)
        now = worker.wait_settled(400)
    stage.wait_committed_to_the_end(worker)

    assert stage.dump() == stage.model()
    assert books.imbalances == []
    assert now.outcomes().keys() == {"put", "superseded"}
    assert {kind for kind, count in now.by("retries_total", "reason").items() if count} == {reason}
    unknown = now.total("unknown_outcomes_total", index=stage.index)
    assert (unknown > 0) == (reason != "throttled")
    # What hangs there for ever is not answered; the worker has given it up long before it sends its keys again.
    answered = [entry for entry in stage.requests("PutVectors") if entry.ended is not None]
    assert key_overlaps(answered) == []


def test_some_faults_among_good_answers_delay_nothing_but_themselves(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=4)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", probability=0.1, seed=1, status=503)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", probability=0.1, seed=2, reset="before")
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", probability=0.1, seed=3, reset="after")
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", probability=0.1, seed=4, latency_seconds=0.1)
    stage.publish_versions(versions_of(keys=500, count=3000))

    worker = start_worker(stage.settings(batch__max_records=50))
    now = worker.wait_settled(3000)
    stage.wait_committed_to_the_end(worker)

    assert stage.dump() == stage.model()
    assert now.outcomes().keys() == {"put", "superseded"}
    assert now.total("retries_total") > 0


def test_retry_after_closes_the_whole_index_and_one_probe_reopens_it(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=4)
    asked_for, slots = 1.5, 2
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", skip=2, count=1, status=429, retry_after=2)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", latency_seconds=0.05)
    stage.publish_versions(versions_of(keys=600, count=600))

    worker = start_worker(stage.settings(batch__max_records=10, delivery__max_in_flight=slots))
    now = worker.wait_settled(600)

    assert stage.dump() == stage.model()
    requests = stage.requests("PutVectors")
    (throttled,) = [entry for entry in requests if entry.status == 429]
    assert throttled.ended is not None
    waits = sorted(entry.started - throttled.ended for entry in requests if entry.started > throttled.ended)
    # What a slot sends before the worker has read the answer cannot be held back.
    early = [wait for wait in waits if wait < asked_for]
    assert len(early) <= slots
    probe, second = waits[len(early) : len(early) + 2]
    assert second - probe >= 0.05
    assert now.total("retries_total", reason="throttled") == 1
    assert now.total("rate_limit_wait_seconds_total", index=stage.index) > asked_for


def test_refused_credentials_block_and_go_on_when_they_are_mended(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    worker = start_worker(stage.settings()).wait_ready()
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", status=403, code="AccessDenied")
    stage.publish_versions([(f"key-{number}", [1.0] * 4) for number in range(50)])

    worker.wait_until(lambda m: m.blocks() == {(stage.topic, "credentials")}, "the topic is blocked")
    wait_for(lambda: worker.readyz().status == 503, "it is not ready", told=worker.last_words)
    blocked = worker.readyz()
    assert blocked.json["state"] == "blocked"
    assert "AccessDenied" in blocked.json["reason"]
    assert worker.healthz().status == 200
    stage.emulator.clear_faults(stage.bucket)
    now = worker.wait_settled(50)

    assert now.outcomes() == {"put": 50}
    worker.wait_until(lambda m: not m.blocks() and m.state == "running", "nothing blocks any more")
    assert stage.dump() == stage.model()
