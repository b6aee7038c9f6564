"""What ends or joins a worker in the middle loses nothing, and lets nothing stale win."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from kafka import KafkaProducer
from kafka.admin import NewPartitions

from tests.support.bounded import join, thread
from tests.support.worker import (
    Stage,
    StageFactory,
    WatchedBooks,
    WorkerFactory,
    WorkerProcess,
    key_overlaps,
    most_at_once,
    versions_of,
    wait_for,
)

KEYS = 120


@pytest.mark.parametrize("group_instance_id", ["", "worker-0"])
def test_kill_9_in_the_middle_loses_nothing_and_nothing_stale_wins(
    new_stage: StageFactory, start_worker: WorkerFactory, group_instance_id: str
) -> None:
    stage = new_stage(partitions=4)
    stage.emulator.fault(bucket=stage.bucket, latency_seconds=0.2, probability=0.3, seed=1)
    stage.emulator.fault(bucket=stage.bucket, latency_seconds=0.05)
    stage.publish_versions(versions_of(keys=2000, count=3000))
    settings = stage.settings(
        batch__max_records=20, kafka__group_instance_id=group_instance_id, kafka__session_timeout_ms=6000
    )

    killed = start_worker(settings)
    killed.wait_until(lambda m: m.settled >= 500, "some records are settled")
    killed.kill()
    assert sum(stage.committed().values()) < 3000
    worker = start_worker(settings)
    stage.wait_committed_to_the_end(worker)

    requests = stage.requests("PutVectors")
    assert stage.dump() == stage.model()
    assert worker.metrics().imbalances() == {}
    assert most_at_once(requests) >= 2  # else the next line would prove nothing
    assert key_overlaps(requests) == []


@contextmanager
def load(stage: Stage) -> Iterator[None]:
    """Publish newer and newer versions all the while, some hundred a second."""
    stop = threading.Event()

    def publish() -> None:
        with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap, linger_ms=5)) as producer:
            while not stop.wait(0.1):
                first = len(stage.history)
                stage.publish_versions_with(producer, versions_of(KEYS, 60, seed=first, first=first))

    loading = thread(publish, name="load")
    try:
        yield
    finally:
        stop.set()
        join(loading)


def settles_more(worker: WorkerProcess, records: int) -> None:
    """Wait until the worker has settled so many more records."""
    before = worker.metrics().settled
    worker.wait_until(lambda m: m.settled >= before + records, f"{records} more records are settled")


def test_scaling_from_1_to_2_to_1_under_load_leaves_no_key_stale(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=6)
    stage.emulator.fault(bucket=stage.bucket, latency_seconds=0.15, probability=0.2, seed=2)
    stage.emulator.fault(bucket=stage.bucket, latency_seconds=0.01)
    settings = stage.settings(batch__max_records=25)

    first = start_worker(settings)
    with WatchedBooks(first) as books_of_first, load(stage):
        first.wait_until(lambda m: m.total("assigned_partitions") == 6, "the first has all partitions")
        settles_more(first, 300)
        second = start_worker(settings)
        with WatchedBooks(second) as books_of_second:
            second.wait_until(lambda m: m.total("assigned_partitions") == 3, "the second has half of them")
            first.wait_until(lambda m: m.total("assigned_partitions") == 3, "the first has the other half")
            settles_more(first, 200)
            settles_more(second, 200)
            assert second.terminate() == 0
        first.wait_until(lambda m: m.total("assigned_partitions") == 6, "the first has all partitions again")
        settles_more(first, 300)
    stage.wait_committed_to_the_end(first)

    assert stage.dump() == stage.model()
    assert (books_of_first.imbalances, books_of_second.imbalances) == ([], [])
    assert min(books_of_first.scrapes, books_of_second.scrapes) > 5
    assert key_overlaps(stage.requests("PutVectors")) == []
    now = first.metrics()
    assert now.total("rebalances_total", event="lost") == 0
    # While a rebalance is under way the broker takes no commits; they are tried again.
    failed = [line["error"] for line in first.log_lines("commit failed")]
    assert [error for error in failed if "RebalanceInProgressError" not in error] == []


def test_a_killed_member_is_replaced_by_the_other(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(partitions=4)
    settings = stage.settings(batch__max_records=25)
    first, second = start_worker(settings), start_worker(settings)
    for worker in (first, second):
        worker.wait_until(lambda m: m.total("assigned_partitions") == 2, "each has half of the partitions")

    with load(stage):
        settles_more(first, 100)
        settles_more(second, 100)
        second.kill()
        first.wait_until(lambda m: m.total("assigned_partitions") == 4, "the first has all partitions")
        settles_more(first, 100)
    stage.wait_committed_to_the_end(first)

    assert stage.dump() == stage.model()
    assert first.metrics().imbalances() == {}


def test_partitions_that_are_added_are_read(new_stage: StageFactory, start_worker: WorkerFactory) -> None:
    stage = new_stage(partitions=1)
    worker = start_worker(stage.settings(kafka__client='{"metadata_max_age_ms": 1000}')).wait_ready()

    stage.admin.create_partitions({stage.topic: NewPartitions(total_count=5)})
    stage.partitions = 5
    worker.wait_until(lambda m: m.total("assigned_partitions") == 5, "all five partitions are assigned")
    wait_for(lambda: len(stage.ends()) == 5, "clients know of them")
    stage.publish_versions(versions_of(KEYS, 500))
    worker.wait_settled(500)

    assert stage.dump() == stage.model()
