"""A log that lost its end: a replica without the newest records was elected, and other records have their offsets now."""

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import CoordinatorNotAvailableError

from tests.support.emulator import Emulator
from tests.support.fronted_broker import FrontedBroker, fronted_broker
from tests.support.worker import Published, Stage, WorkerFactory, publish, vector_record, wait_for

READ, KEPT, NEW = 200, 100, 150


@pytest.fixture(scope="module")
def front(emulator: Emulator) -> Iterator[FrontedBroker]:
    """A broker that may be stopped, and its log cut."""
    with fronted_broker(emulator) as running:
        yield running


def cut(folder: Path, offset: int) -> None:
    """Take the records from `offset` on out of a partition's folder, under a broker that is down."""
    file = folder / "00000000000000000000.log"
    whole, at = file.read_bytes(), 0
    while struct.unpack_from(">q", whole, at)[0] < offset:
        at += 12 + struct.unpack_from(">i", whole, at + 8)[0]
    file.write_bytes(whole[:at])
    for made_of_it in (*folder.glob("*.index"), *folder.glob("*.timeindex"), *folder.glob("*.snapshot")):
        made_of_it.unlink()


def lose_the_end(stage: Stage, offset: int) -> None:
    """What an unclean election leaves: the records below `offset`, and a leader of a later epoch.

    A single node that was killed is elected anew, since it may have lost what it had not written to its disk.
    """
    stage.broker.kill()
    cut(stage.broker.data / "records" / f"{stage.topic}-0", offset)
    stage.broker.restart()


def publish_records(stage: Stage, name: str, count: int) -> None:
    """Publish records whose key tells their round and number."""
    keys = [f"{name}-{number}" for number in range(count)]
    vectors = [[float(number), 1.0, 2.0, 3.0] for number in range(count)]
    places = publish(stage.broker.bootstrap, stage.topic, list(map(vector_record, keys, vectors)))
    stage.history += [Published(key, vector, place) for key, vector, place in zip(keys, vectors, places, strict=True)]


def test_what_took_the_place_of_lost_records_while_the_worker_was_stopped_is_read(
    front: FrontedBroker, start_worker: WorkerFactory
) -> None:
    stage = front.new_stage(partitions=1)
    publish_records(stage, "kept", KEPT)
    publish_records(stage, "lost", READ - KEPT)
    worker = start_worker(stage.settings())
    worker.wait_settled(READ)
    assert worker.terminate() == 0
    assert stage.committed() == {0: READ}
    lose_the_end(stage, KEPT)
    publish_records(stage, "new", NEW)
    assert [one.place.offset for one in stage.history[READ:]] == list(range(KEPT, KEPT + NEW))

    worker = start_worker(stage.settings())
    stage.wait_committed_to_the_end(worker)

    assert {key for key in stage.dump() if key.startswith("new")} == {f"new-{number}" for number in range(NEW)}
    assert stage.committed() == {0: KEPT + NEW}
    now = worker.metrics()
    assert now.consumed == NEW
    assert now.total("skipped_offsets_total") == 0
    assert now.by("truncated_offsets_total", "topic") == {stage.topic: READ - KEPT}
    (line,) = worker.log_lines("log truncated")
    assert (line["topic"], line["partition"], line["from"], line["to"]) == (stage.topic, 0, READ, KEPT)


def test_what_took_the_place_of_lost_records_while_the_worker_ran_is_read(
    front: FrontedBroker, start_worker: WorkerFactory
) -> None:
    stage = front.new_stage(partitions=1)
    publish_records(stage, "kept", KEPT)
    publish_records(stage, "lost", READ - KEPT)
    worker = start_worker(stage.settings())
    worker.wait_settled(READ)
    wait_for(lambda: stage.committed() == {0: READ}, "all is committed", told=worker.last_words)
    lose_the_end(stage, KEPT)
    publish_records(stage, "new", NEW)

    worker.wait_settled(READ + NEW)
    stage.wait_committed_to_the_end(worker)

    assert {key for key in stage.dump() if key.startswith("new")} == {f"new-{number}" for number in range(NEW)}
    assert worker.metrics().by("truncated_offsets_total", "topic") == {stage.topic: READ - KEPT}
    (line,) = worker.log_lines("log truncated")
    assert (line["topic"], line["partition"], line["from"], line["to"]) == (stage.topic, 0, READ, KEPT)


def test_a_log_that_lost_nothing_is_read_on_after_each_election(
    front: FrontedBroker, start_worker: WorkerFactory
) -> None:
    """Epochs change between records, at the committed offset, and just behind a marker that nobody reads."""
    stage = front.new_stage(partitions=1)
    worker = start_worker(stage.settings())
    for number in range(2):
        publish_records(stage, f"round-{number}", 10)
        worker.wait_settled(10)
        with closing(
            KafkaProducer(bootstrap_servers=stage.broker.bootstrap, transactional_id=f"{stage.topic}-{number}")
        ) as producer:
            producer.init_transactions()
            producer.begin_transaction()
            producer.send(stage.topic, b"{}", partition=0).get(timeout=20)
            producer.abort_transaction()
        stage.wait_committed_to_the_end(worker)
        stage.broker.kill()
        stage.broker.restart()
        publish_records(stage, f"after-{number}", 10)
        worker.wait_settled(20)
        stage.wait_committed_to_the_end(worker)
        assert worker.metrics().consumed == 20
        assert worker.metrics().total("truncated_offsets_total") == 0
        assert worker.log_lines("log truncated") == []
        assert worker.terminate() == 0
        worker = start_worker(stage.settings())

    assert stage.dump() == stage.model()


def commit_by_hand(stage: Stage, offset: int, leader_epoch: int) -> None:
    """Commit in the group's name, which takes a group without members."""
    found = {TopicPartition(stage.topic, 0): OffsetAndMetadata(offset, "", leader_epoch)}

    def committed() -> bool:
        try:
            answer = stage.admin.alter_group_offsets(stage.group, found)
        except CoordinatorNotAvailableError:  # nobody committed at this broker before
            return False
        return [error.__name__ for error in answer.values()] == ["NoError"]

    wait_for(committed, "the offset is committed")


@pytest.mark.parametrize("reset", ["earliest", "none"])
def test_an_offset_of_a_log_that_is_another_one_now_is_not_gone_on_from(
    front: FrontedBroker, start_worker: WorkerFactory, reset: str
) -> None:
    """A topic that was deleted and made anew counts its epochs from 0 again."""
    stage = front.new_stage(partitions=1)
    publish_records(stage, "new", 10)
    commit_by_hand(stage, 5, 7)

    worker = start_worker(stage.settings(kafka__auto_offset_reset=reset))

    if reset == "none":
        worker.wait_until(lambda now: now.blocks() == {(stage.topic, "offset_out_of_range")}, "it is blocked")
        assert worker.metrics().consumed == 0
        assert worker.terminate() == 0
        commit_by_hand(stage, 5, -1)
        worker = start_worker(stage.settings(kafka__auto_offset_reset=reset))
        worker.wait_settled(5)
    else:
        worker.wait_settled(10)
        (line,) = worker.log_lines("log truncated")
        assert (line["from"], line["to"]) == (5, 0)
    stage.wait_committed_to_the_end(worker)
    assert worker.metrics().blocks() == set()
    assert worker.terminate() == 0
