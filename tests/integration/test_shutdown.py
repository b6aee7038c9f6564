"""The end: drained and committed within the deadline, or at once when told so again."""

import signal
import time

import pytest

from tests.support.worker import BUSY_S, Stage, StageFactory, WorkerFactory, WorkerProcess, versions_of, wait_for

SLOW_S = 0.1


def started_in_the_middle(stage: Stage, start_worker: WorkerFactory) -> WorkerProcess:
    """A worker that has settled a part of 3,000 records, and holds no more than some hundred."""
    stage.publish_versions(versions_of(keys=3000, count=3000))
    worker = start_worker(stage.settings(batch__max_records=10, buffer__max_offset_span=100))
    worker.wait_until(lambda m: m.settled >= 100, "some records are settled")
    return worker


def put_under_way(stage: Stage) -> bool:
    """Tell whether a put has no answer yet."""
    return any(entry.ended is None for entry in stage.requests("PutVectors"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_commits_and_ends_with_0(
    new_stage: StageFactory, start_worker: WorkerFactory, number: signal.Signals
) -> None:
    stage = new_stage(partitions=3)
    stage.emulator.fault(bucket=stage.bucket, latency_seconds=SLOW_S)
    worker = started_in_the_middle(stage, start_worker)

    worker.send_signal(number)

    assert worker.wait() == 0
    committed = stage.committed()
    assert 100 <= sum(committed.values()) < 3000
    # All that was polled is settled, and exactly that is committed.
    assert stage.dump() == stage.model(below=committed)
    assert worker.log_lines("not settled in time; these come again") == []
    revoked = worker.log_lines("partitions revoked")
    assert [line["returned"] for line in revoked] == [0]


def test_while_it_drains_it_is_healthy_and_not_ready(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage()
    stage.emulator.fault(bucket=stage.bucket, latency_seconds=15, operation="PutVectors")
    stage.publish_versions([("a", [1.0] * 4)])
    worker = start_worker(stage.settings(shutdown__drain_seconds=50, oss__read_timeout_seconds=30))
    wait_for(lambda: put_under_way(stage), "a put is under way", told=worker.last_words)

    worker.send_signal(signal.SIGTERM)
    now = worker.wait_until(lambda m: m.state == "draining", "it drains")

    assert (worker.healthz().status, worker.readyz().status) == (200, 503)
    assert now.imbalances() == {}
    assert worker.wait() == 0
    assert stage.dump() == stage.model()
    assert sum(stage.committed().values()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_at_once(
    new_stage: StageFactory, start_worker: WorkerFactory, number: signal.Signals, code: int
) -> None:
    stage = new_stage()
    stage.emulator.fault(bucket=stage.bucket, hang=True, operation="PutVectors")
    stage.publish_versions([("a", [1.0] * 4)])
    worker = start_worker(stage.settings(shutdown__drain_seconds=90, oss__read_timeout_seconds=90))
    wait_for(lambda: put_under_way(stage), "a put is under way", told=worker.last_words)
    worker.send_signal(signal.SIGTERM)
    worker.wait_until(lambda m: m.state == "draining", "it drains")

    told_at = time.monotonic()
    worker.send_signal(number)

    assert worker.wait() == code
    assert time.monotonic() - told_at < BUSY_S
    assert sum(stage.committed().values()) == 0


@pytest.mark.parametrize("fault", [{"status": 503}, {"hang": True}, {"status": 429, "retry_after": 60}])
def test_a_drain_while_the_service_is_down_ends_at_its_deadline(
    new_stage: StageFactory, start_worker: WorkerFactory, fault: dict[str, object]
) -> None:
    stage = new_stage()
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", **fault)  # type: ignore[arg-type]  # of the parameters above
    stage.publish_versions(versions_of(keys=50, count=50))
    drain_seconds = 3
    settings = stage.settings(
        shutdown__drain_seconds=drain_seconds, oss__read_timeout_seconds=60, delivery__retry_max_seconds=60
    )
    worker = start_worker(settings)
    worker.wait_until(lambda m: m.buffered == 50, "all records wait")
    wait_for(lambda: stage.requests("PutVectors"), "a put was tried", told=worker.last_words)

    told_at = time.monotonic()
    worker.send_signal(signal.SIGTERM)

    assert worker.wait() == 0
    assert time.monotonic() - told_at < drain_seconds + BUSY_S
    assert sum(stage.committed().values()) == 0
    (warning,) = worker.log_lines("not settled in time; these come again")
    assert warning["records"] == 50

    stage.emulator.clear_faults(stage.bucket)
    again = start_worker(settings)
    again.wait_settled(50)
    assert stage.dump() == stage.model()


def test_a_signal_before_the_broker_was_reached_ends_with_0(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage()
    worker = start_worker(stage.settings(kafka__bootstrap_servers="127.0.0.1:1", shutdown__drain_seconds=60))
    wait_for(lambda: "127.0.0.1:1" in worker.readyz().body, "it tells of the broker", told=worker.last_words)

    told_at = time.monotonic()

    assert worker.terminate() == 0
    assert time.monotonic() - told_at < 8 + BUSY_S
