"""What a partition's log may hold besides records: what was aborted, compacted or removed."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest
from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition

from tests.support.emulator import Emulator
from tests.support.fronted_broker import FrontedBroker, fronted_broker
from tests.support.worker import (
    Place,
    Published,
    Scrape,
    Stage,
    StageFactory,
    WorkerFactory,
    WorkerProcess,
    publish_with,
    read_topic,
    vector_record,
    wait_for,
)

# -- transactions


@contextmanager
def transactional_producer(stage: Stage) -> Iterator[Any]:
    """A producer with transactions."""
    with closing(
        KafkaProducer(bootstrap_servers=stage.broker.bootstrap, transactional_id=f"{stage.topic}-writer", linger_ms=0)
    ) as producer:
        producer.init_transactions()
        yield producer


def written(stage: Stage, producer: Any, name: str, count: int, partition: int = 0) -> list[tuple[str, Place]]:
    """Write so many records within the transaction that is open, and tell their keys and places."""
    keys = [f"{name}-{number}" for number in range(count)]
    records = [vector_record(key, [float(number)] * 4, partition) for number, key in enumerate(keys)]
    return list(zip(keys, publish_with(producer, stage.topic, records), strict=True))


def learn(stage: Stage, found: Sequence[tuple[str, Place]]) -> None:
    """Enter records of a transaction that was committed into the model."""
    stage.history += [Published(key, [float(number)] * 4, place) for number, (key, place) in enumerate(found)]


def at_the_end(now: Scrape, stage: Stage) -> bool:
    """Tell whether the figures say that every partition is read and committed to its end."""
    ends = {str(number): float(end) for number, end in stage.ends().items()}
    return (
        now.by("committed_offset", "partition", topic=stage.topic) == ends
        and now.by("watermark_offset", "partition", topic=stage.topic) == ends
        and now.total("consumer_lag_records", topic=stage.topic) == 0
    )


def test_aborted_records_are_not_read_and_their_gaps_and_markers_hold_nothing_up(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=2)
    with transactional_producer(stage) as producer:
        for number, ends_well in enumerate([True, False, True, False]):
            producer.begin_transaction()
            found = written(stage, producer, f"t{number}", 20)
            if ends_well:
                producer.commit_transaction()
                learn(stage, found)
            else:
                producer.abort_transaction()
    worker = start_worker(stage.settings())

    now = worker.wait_until(lambda now: at_the_end(now, stage), "it is at the end, behind what was aborted")

    assert now.outcomes() == {"put": 40}
    assert now.consumed == 40
    assert now.total("skipped_offsets_total") == 0
    # Four transactions of twenty records, each with a marker.
    assert stage.committed()[0] == 84
    assert stage.dump() == stage.model()


def test_an_open_transaction_is_waited_for_and_passed_when_it_is_aborted(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    worker = start_worker(stage.settings()).wait_ready()
    with transactional_producer(stage) as producer:
        producer.begin_transaction()
        written(stage, producer, "undecided", 10)
        stage.publish_versions([(f"behind-{number}", [float(number)] * 4) for number in range(10)])
        assert worker.metrics().consumed == 0
        producer.abort_transaction()
    worker.wait_settled(10)
    stage.wait_committed_to_the_end(worker)

    assert stage.dump() == stage.model()
    assert worker.metrics().consumed == 10

    # A tail without a single record to settle moves the watermark too.
    with transactional_producer(stage) as producer:
        producer.begin_transaction()
        written(stage, producer, "aborted", 5)
        producer.abort_transaction()
    stage.wait_committed_to_the_end(worker)
    assert worker.metrics().consumed == 10


# -- compaction


@pytest.fixture(scope="module")
def front(emulator: Emulator) -> Iterator[FrontedBroker]:
    """A broker that compacts and removes at once."""
    with fronted_broker(emulator, {"log.cleaner.backoff.ms": "100", "log.retention.check.interval.ms": "500"}) as one:
        yield one


def test_gaps_of_compaction_hold_nothing_up_and_are_no_loss(front: FrontedBroker, start_worker: WorkerFactory) -> None:
    stage = front.new_stage(
        partitions=1,
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.01",
        max_compaction_lag_ms="100",
    )
    keys = [f"key-{number % 7}" for number in range(100)]

    def is_compacted() -> bool:
        stage.publish_versions([(f"roll-{len(stage.history)}", [1.0] * 4)])  # a segment ends with a record after it
        return len(read_topic(stage.broker.bootstrap, stage.topic)) < len(stage.history) - 50

    stage.publish_versions([(key, [float(number)] * 4) for number, key in enumerate(keys)])
    wait_for(is_compacted, "old versions are gone")
    left = len(read_topic(stage.broker.bootstrap, stage.topic))

    worker = start_worker(stage.settings())
    now = worker.wait_until(lambda now: at_the_end(now, stage), "it is at the end, over the gaps")

    assert now.consumed <= left
    assert now.total("skipped_offsets_total") == 0
    assert worker.log_lines("offset out of range") == []
    assert stage.dump() == stage.model()


# -- retention


def remove_below(stage: Stage, offset: int) -> None:
    """Remove the records of partition 0 below an offset, as retention does."""
    stage.admin.delete_records({TopicPartition(stage.topic, 0): offset})


def set_by_hand(stage: Stage, offset: int) -> None:
    """Commit an offset in the group's name, which takes a group without members."""
    answer = stage.admin.alter_group_offsets(
        stage.group, {TopicPartition(stage.topic, 0): OffsetAndMetadata(offset, "", -1)}
    )
    assert [error.__name__ for error in answer.values()] == ["NoError"]


def numbered(first: int, count: int) -> list[tuple[str, Sequence[float] | None]]:
    """Records whose key tells the offset."""
    return [(f"key-{number}", [float(number)] * 4) for number in range(first, first + count)]


def test_what_retention_removed_before_it_was_read_is_counted_exactly_told_and_passed(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    stage.publish_versions(numbered(0, 10))
    first = start_worker(stage.settings())
    first.wait_settled(10)
    assert first.terminate() == 0
    stage.publish_versions(numbered(10, 30))
    remove_below(stage, 25)

    worker = start_worker(stage.settings())
    now = worker.wait_settled(15)
    stage.wait_committed_to_the_end(worker)

    assert now.by("skipped_offsets_total", "reason", topic=stage.topic) == {"retention": 15, "reset_latest": 0}
    assert now.consumed == 15
    (line,) = worker.log_lines("offset out of range")
    assert (line["topic"], line["partition"], line["from"], line["to"]) == (stage.topic, 0, 10, 25)
    assert stage.dump().keys() == {f"key-{number}" for number in [*range(10), *range(25, 40)]}


def errors_of(now: Scrape) -> float:
    return now.total("kafka_errors_total")


def turns_calmly(worker: WorkerProcess, errors_per_second: float) -> None:
    """Assert that it polls on, that errors are few, and that it does not burn the processor."""
    before = worker.metrics()

    def polled_for(now: Scrape) -> float:
        name = "last_poll_timestamp_seconds"
        return now.total(name) - before.total(name)

    after = worker.wait_until(lambda now: polled_for(now) > 2, "it polls on for two seconds")
    seconds = polled_for(after)
    assert (errors_of(after) - errors_of(before)) / seconds < errors_per_second
    assert (cpu_seconds(after) - cpu_seconds(before)) / seconds < 0.6


def cpu_seconds(now: Scrape) -> float:
    ((_, value),) = now.samples["process_cpu_seconds_total"]
    return value


def test_without_a_reset_policy_it_blocks_calmly_until_the_offset_is_set_by_hand(
    new_stage: StageFactory, start_worker: WorkerFactory
) -> None:
    stage = new_stage(partitions=1)
    settings = stage.settings(kafka__auto_offset_reset="none")
    stage.publish_versions(numbered(0, 40))

    worker = start_worker(settings)
    worker.wait_until(lambda now: now.blocks() == {(stage.topic, "no_committed_offset")}, "it is blocked")
    turns_calmly(worker, errors_per_second=5)
    assert (worker.metrics().state, worker.metrics().consumed) == ("blocked", 0)
    assert worker.terminate() == 0
    assert stage.committed() == {}
    set_by_hand(stage, 20)
    worker = start_worker(settings)
    worker.wait_settled(20)
    stage.wait_committed_to_the_end(worker)
    assert worker.terminate() == 0

    stage.publish_versions(numbered(40, 20))
    remove_below(stage, 50)
    worker = start_worker(settings)
    worker.wait_until(lambda now: now.blocks() == {(stage.topic, "offset_out_of_range")}, "it is blocked")
    turns_calmly(worker, errors_per_second=5)
    assert (worker.metrics().state, worker.metrics().consumed) == ("blocked", 0)
    assert worker.metrics().total("skipped_offsets_total") == 0
    assert worker.terminate() == 0
    assert stage.committed() == {0: 40}
    set_by_hand(stage, 55)
    worker = start_worker(settings)
    worker.wait_settled(5)
    stage.wait_committed_to_the_end(worker)

    assert worker.metrics().blocks() == set()
    assert stage.dump().keys() == {f"key-{number}" for number in [*range(20, 40), *range(55, 60)]}
