"""Reading stretches of partitions for the commands: to the end and no further, in order, and never for ever."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition

from tests.support.broker import TopicFactory
from tests.support.worker import Record, Stage, StageFactory, free_port
from worker.errors import FatalError
from worker.ledger import Partition
from worker.settings.load import load
from worker.settings.tables import Kafka
from worker.tools.scan import Scanner, Stretch


def kafka_settings(stage: Stage, **overrides: object) -> Kafka:
    """Return the stage's `[kafka]`."""
    own = {name: value for name, value in stage.settings(**overrides).items() if name.startswith("OSS_")}
    return load(None, own).settings.kafka


@pytest.fixture
def stage(new_stage: StageFactory) -> Stage:
    """A stage of two partitions."""
    return new_stage(partitions=2)


@pytest.fixture
def scanner(stage: Stage) -> Iterator[Scanner]:
    """A scanner that is not patient."""
    with Scanner(kafka_settings(stage), patience_seconds=30) as one:
        yield one


def records(count: int, partition: int) -> list[Record]:
    """Return so many records for a partition."""
    return [Record(str(number).encode(), b"v", partition=partition) for number in range(count)]


def offsets(scanner: Scanner, stretches: list[Stretch]) -> dict[int, list[int]]:
    """Return the offsets that a scan reads, by partition, in the order in which they come."""
    found: dict[int, list[int]] = {}
    for partition, messages in scanner.read(stretches):
        found.setdefault(partition.partition, []).extend(message.offset for message in messages)
    return found


def whole(scanner: Scanner, topic: str) -> list[Stretch]:
    """Return the stretches of all that a topic has."""
    partitions = scanner.partitions(topic)
    return scanner.everything(partitions)


def test_a_stretch_is_read_from_its_first_record_to_its_last(stage: Stage, scanner: Scanner) -> None:
    stage.publish(records(50, 0) + records(30, 1))
    stretches = [Stretch(Partition(stage.topic, 0), 10, 40), Stretch(Partition(stage.topic, 1), 0, 30)]
    stage.publish(records(5, 1))
    assert offsets(scanner, stretches) == {0: list(range(10, 40)), 1: list(range(30))}


def test_a_scanner_reads_several_times(stage: Stage, scanner: Scanner) -> None:
    stage.publish(records(5, 0))
    again = [offsets(scanner, whole(scanner, stage.topic)) for _ in range(2)]
    assert again == [{0: [0, 1, 2, 3, 4]}] * 2


def test_a_partition_that_ended_before_the_others_is_read_again(stage: Stage, scanner: Scanner) -> None:
    stage.publish(records(20, 0) + records(1200, 1))  # one poll gives 500
    again = [offsets(scanner, whole(scanner, stage.topic)) for _ in range(2)]
    assert again == [{0: list(range(20)), 1: list(range(1200))}] * 2


def test_an_empty_topic_is_read_at_once(stage: Stage, scanner: Scanner) -> None:
    assert offsets(scanner, whole(scanner, stage.topic)) == {}


def test_a_stretch_ends_behind_the_marker_of_a_transaction(stage: Stage, scanner: Scanner) -> None:
    config = {"bootstrap_servers": stage.broker.bootstrap, "transactional_id": stage.topic}
    with closing(KafkaProducer(**config)) as producer:
        producer.init_transactions()
        for ends in (producer.commit_transaction, producer.abort_transaction):
            producer.begin_transaction()
            producer.send(stage.topic, b"v", partition=0).get(timeout=30)
            ends()
    assert whole(scanner, stage.topic)[0].end == 4
    assert offsets(scanner, whole(scanner, stage.topic)) == {0: [0]}


def test_what_retention_removed_is_passed_and_counted(stage: Stage, scanner: Scanner) -> None:
    stage.publish(records(20, 0))
    stretches = whole(scanner, stage.topic)
    stage.admin.delete_records({TopicPartition(stage.topic, 0): 12})
    assert offsets(scanner, stretches) == {0: list(range(12, 20))}
    assert scanner.lost == {Partition(stage.topic, 0): 12}


def test_offsets_are_found_by_time(stage: Stage, scanner: Scanner, new_topic: TopicFactory) -> None:
    topic = new_topic(1, retention_ms="-1")  # else records of 1970 are expired from the first moment
    with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap)) as producer:
        for second in (100, 200, 300):
            sent: Any = producer.send(topic, b"v", partition=0, timestamp_ms=second * 1000)
            sent.get(timeout=30)
    place = Partition(topic, 0)
    assert [scanner.offsets_at([place], at)[place] for at in (0, 150, 200, 301)] == [0, 1, 1, 3]


def test_a_topic_that_is_not_there_is_named(scanner: Scanner) -> None:
    with pytest.raises(FatalError, match="kafka has no topic nowhere, or does not show it"):
        scanner.partitions("nowhere")


def test_a_broker_that_is_not_there_is_named(stage: Stage) -> None:
    port = free_port()
    settings = kafka_settings(stage, kafka__bootstrap_servers=f"127.0.0.1:{port}")
    with Scanner(settings) as scanner, pytest.raises(FatalError, match=f"kafka at 127.0.0.1:{port} cannot be reached"):
        scanner.partitions(stage.topic)


def test_a_partition_that_gives_nothing_ends_the_scan_with_its_place(stage: Stage) -> None:
    stage.publish(records(2, 0))
    beyond = [Stretch(Partition(stage.topic, 0), 0, 5)]
    told = f"no record came for 1 s: {stage.topic}/0 at 2 of 5"
    read: list[object] = []

    def clock() -> float:
        """Begin with the last record: the first fetch of a consumer may take longer than the patience."""
        return time.monotonic() if len(read) == 2 else 0.0

    def scan(scanner: Scanner) -> None:
        for _, messages in scanner.read(beyond):
            read.extend(messages)

    with (
        Scanner(kafka_settings(stage), clock=clock, patience_seconds=1) as scanner,
        pytest.raises(FatalError, match=told),
    ):
        scan(scanner)
