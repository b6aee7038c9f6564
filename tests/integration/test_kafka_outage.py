"""The broker goes away, falls silent, or comes back with another topic: the worker waits, and goes on by itself."""

import signal
import time
from collections.abc import Iterator

import pytest
from kafka.admin import NewTopic

from tests.support.emulator import Emulator
from tests.support.fronted_broker import FrontedBroker, fronted_broker
from tests.support.worker import BUSY_S, Scrape, Stage, WorkerFactory, WorkerProcess, versions_of, wait_for

QUICK = '{"metadata_max_age_ms": 1000, "reconnect_backoff_max_ms": 500}'
SESSION_S = 3


@pytest.fixture(scope="module")
def front(emulator: Emulator) -> Iterator[FrontedBroker]:
    """A broker that may be killed, behind a proxy that may swallow."""
    with fronted_broker(emulator) as running:
        yield running


def errors(now: Scrape) -> float:
    """How many errors the client told."""
    return now.total("kafka_errors_total")


def polled_at(now: Scrape) -> float:
    """When it polled."""
    return now.total("last_poll_timestamp_seconds")


# -- a broker that says nothing


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_signal_while_the_broker_is_silent_ends_within_the_deadline(
    front: FrontedBroker, start_worker: WorkerFactory, in_flight: bool
) -> None:
    stage = front.new_stage()
    drain_seconds = 4
    worker = start_worker(stage.settings(shutdown__drain_seconds=drain_seconds)).wait_ready()
    if in_flight:
        stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", latency_seconds=1.0)
    stage.publish_versions(versions_of(keys=50, count=50))
    if in_flight:
        worker.wait_until(
            lambda m: m.consumed == 50 and m.total("requests_in_flight"), "all are read, and a put is under way"
        )
    else:
        worker.wait_settled(50)

    with front.proxy.swallowing():
        told_at = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        code = worker.wait()
        took = time.monotonic() - told_at

    assert code == 0
    assert took < drain_seconds + BUSY_S
    assert stage.dump() == stage.model()


def test_a_worker_that_heard_nothing_for_longer_than_its_session_goes_on_by_itself(
    front: FrontedBroker, start_worker: WorkerFactory
) -> None:
    stage = front.new_stage()
    worker = start_worker(stage.settings(kafka__session_timeout_ms=SESSION_S * 1000, kafka__client=QUICK)).wait_ready()
    stage.publish_versions(versions_of(keys=50, count=50))
    worker.wait_settled(50)

    with front.proxy.swallowing():
        worker.wait_line("not connected", timeout=SESSION_S * 5)
        assert worker.healthz().status == 200
    stage.publish_versions(versions_of(keys=50, count=50, first=100))
    stage.wait_committed_to_the_end(worker)

    worker.wait_ready()
    now = worker.metrics()
    assert stage.dump() == stage.model()
    assert now.imbalances() == {}


# -- a broker that is not there


def test_a_broker_that_is_killed_and_comes_back_loses_nothing_that_flows(
    front: FrontedBroker, start_worker: WorkerFactory
) -> None:
    stage = front.new_stage(partitions=4)
    stage.emulator.fault(bucket=stage.bucket, operation="PutVectors", latency_seconds=0.1)
    stage.publish_versions(versions_of(keys=500, count=3000))
    settings = stage.settings(kafka__client=QUICK, batch__max_records=10, buffer__max_offset_span=100)
    worker = start_worker(settings)
    worker.wait_until(lambda now: now.settled > 100, "records flow")
    front.broker.kill()
    gone = worker.metrics()
    later = worker.wait_until(lambda now: polled_at(now) > polled_at(gone) + 2, "polling goes on")
    assert (errors(later) - errors(gone)) / (polled_at(later) - polled_at(gone)) < 10
    assert later.settled < 3000
    assert worker.healthz().status == 200
    front.broker.restart()
    stage.emulator.clear_faults(stage.bucket)
    stage.publish_versions(versions_of(keys=500, count=500, seed=1, first=5000))
    stage.wait_committed_to_the_end(worker)

    worker.wait_ready()
    assert stage.dump() == stage.model()
    assert worker.metrics().imbalances() == {}
    assert stage.dead_letters() == []


# -- a topic that is not the one that it was


def made_anew(front: FrontedBroker, stage: Stage, worker: WorkerProcess) -> None:
    """Delete the topic, wait until the worker can have noticed, and make another of its name."""
    front.admin.delete_topics([stage.topic])
    before = worker.metrics()
    after = worker.wait_until(lambda now: polled_at(now) > polled_at(before) + 3, "it polls on without its topic")
    assert (errors(after) - errors(before)) / (polled_at(after) - polled_at(before)) < 10
    assert worker.healthz().status == 200
    stage.history.clear()
    front.admin.create_topics([NewTopic(stage.topic, stage.partitions, 1)], wait_for_metadata=True)


def test_a_topic_that_is_deleted_and_made_anew_is_read_from_its_beginning(
    front: FrontedBroker, start_worker: WorkerFactory
) -> None:
    stage = front.new_stage(partitions=1)
    worker = start_worker(stage.settings(kafka__client=QUICK)).wait_ready()
    stage.publish_versions([(f"old-{number}", [float(number)] * 4) for number in range(50)])
    worker.wait_settled(50)
    stage.wait_committed_to_the_end(worker)
    old = stage.dump()

    made_anew(front, stage, worker)
    stage.publish_versions([(f"new-{number}", [float(number)] * 4) for number in range(10)])
    worker.wait_settled(60)
    stage.wait_committed_to_the_end(worker)

    assert stage.dump() == old | stage.model()
    [committed] = front.admin.list_group_offsets(stage.group)[stage.group].values()
    [topic] = front.admin.describe_topics([stage.topic])
    assert committed.metadata.endswith(f"/{topic['topic_id']}")  # of the log that was read
    now = worker.metrics()
    assert (now.imbalances(), now.state) == ({}, "running")


@pytest.mark.parametrize("count", [10, 80])
def test_a_topic_that_was_made_anew_between_two_looks_is_read_from_its_beginning_and_that_is_told(
    front: FrontedBroker, start_worker: WorkerFactory, count: int
) -> None:
    stage = front.new_stage(partitions=1)
    worker = start_worker(stage.settings(kafka__client=QUICK, kafka__session_timeout_ms=30_000)).wait_ready()
    stage.publish_versions([(f"old-{number}", [float(number)] * 4) for number in range(50)])
    worker.wait_settled(50)
    stage.wait_committed_to_the_end(worker)
    old = stage.dump()

    worker.send_signal(signal.SIGSTOP)
    front.admin.delete_topics([stage.topic])
    front.admin.create_topics([NewTopic(stage.topic, stage.partitions, 1)], wait_for_metadata=True)
    stage.history.clear()
    # Fewer than the offset that the worker goes on from, or more.
    stage.publish_versions([(f"new-{number}", [float(number)] * 4) for number in range(count)])
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: stage.dump() == old | stage.model(), "the new topic is written", told=worker.last_words)
    stage.wait_committed_to_the_end(worker)

    assert [line["topic"] for line in worker.log_lines("topic recreated: reading it from its start")] == [stage.topic]
    now = worker.metrics()
    assert (now.imbalances(), now.state) == ({}, "running")
