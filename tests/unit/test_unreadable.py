"""Partitions that cannot be read, and topics that may not be, on a clock that the test advances."""

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors

from tests.support.client import FakeConsumer
from tests.support.fakes import FakeClock
from tests.unit.samples import opened
from worker.consumer import client_internals
from worker.consumer.unreadable import DeniedTopics, UnreadablePartitions
from worker.errors import BlockReason
from worker.ledger import Ledger, Partition
from worker.telemetry.state import Block, Status

RETRY_SECONDS = 30.0
PARTITION, OTHER = Partition("vectors", 0), Partition("vectors", 1)
TP = TopicPartition(*PARTITION)


def block(partition: Partition) -> Block:
    return Block(partition.topic, BlockReason.PARTITION_UNREADABLE, partition.partition)


def met(error: Exception, tp: TopicPartition | None = TP, offset: int = 5) -> Exception:
    """Return the error as the client raises it, with the place that was noted on it."""
    if tp is not None:
        setattr(error, client_internals._PLACE, (tp, offset))
    return error


class Unreadable:
    """Unreadable partitions, and a client that has fetched one of them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.status = Status(0.0)
        self.partitions = UnreadablePartitions(self.status, RETRY_SECONDS, self.clock)
        self.consumer = FakeConsumer()
        self.consumer.own(PARTITION, OTHER)
        self.drained: list[TopicPartition] = []
        self.fetched(TP)

    def fetched(self, tp: TopicPartition) -> None:
        self.consumer._fetcher._next_partition_records = SimpleNamespace(
            topic_partition=tp, drain=lambda: self.drained.append(tp)
        )

    def read_to(self, offset: int) -> None:
        self.consumer.read_to(PARTITION, offset)
        self.partitions.watch(self.consumer)

    @property
    def blocks(self) -> dict[Block, str]:
        return self.status.read().blocks


@pytest.mark.parametrize(
    "error",
    [kafka_errors.CorruptRecordError("crc"), kafka_errors.UnsupportedCodecError("lz5"), ValueError("not a batch")],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_cannot_be_read_blocks_its_partition_and_is_dropped(error: Exception) -> None:
    unreadable = Unreadable()
    assert unreadable.partitions.stop_reading(unreadable.consumer, met(error)) is True
    assert unreadable.partitions.waiting == {PARTITION}
    assert unreadable.blocks[block(PARTITION)].startswith(f"{PARTITION} offset 5: {type(error).__name__}")
    assert unreadable.drained == [TP]


def test_what_was_fetched_of_another_partition_is_kept() -> None:
    unreadable = Unreadable()
    unreadable.fetched(TopicPartition(*OTHER))
    assert unreadable.partitions.stop_reading(unreadable.consumer, met(kafka_errors.CorruptRecordError()))
    assert unreadable.drained == []


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(met(kafka_errors.NotLeaderForPartitionError()), id="an error of the cluster"),
        pytest.param(met(kafka_errors.CorruptRecordError(), tp=None), id="before any partition"),
        pytest.param(kafka_errors.CorruptRecordError(), id="from elsewhere"),
    ],
)
def test_an_error_that_is_not_about_a_batch_blocks_nothing(error: Exception) -> None:
    unreadable = Unreadable()
    assert unreadable.partitions.stop_reading(unreadable.consumer, error) is False
    assert (unreadable.partitions.waiting, unreadable.blocks) == (frozenset(), {})


def test_a_blocked_partition_is_fetched_again_after_the_retry_pause_and_stays_blocked_until_read() -> None:
    unreadable = Unreadable()
    unreadable.partitions.block(PARTITION, 5, "broken")
    unreadable.clock.advance(RETRY_SECONDS - 0.1)
    assert unreadable.partitions.waiting == {PARTITION}
    unreadable.clock.advance(0.1)
    assert (unreadable.partitions.waiting, list(unreadable.blocks)) == (frozenset(), [block(PARTITION)])
    unreadable.read_to(5)  # the place that could not be read is next
    assert list(unreadable.blocks) == [block(PARTITION)]
    unreadable.read_to(6)
    assert unreadable.blocks == {}


@pytest.mark.parametrize("position", [6, 100])
def test_a_partition_without_any_record_behind_the_bad_place_is_unblocked(position: int) -> None:
    """Retention deleted the batch, or what comes behind it was aborted."""
    unreadable = Unreadable()
    unreadable.partitions.block(PARTITION, 5, "broken")
    unreadable.read_to(position)
    assert (unreadable.partitions.waiting, unreadable.blocks) == (frozenset(), {})


def test_a_fetch_that_succeeds_is_no_proof_that_a_batch_can_be_read() -> None:
    """It brought the batch."""
    unreadable = Unreadable()
    unreadable.partitions.block(PARTITION, 5, "broken")
    unreadable.consumer._subscription.assignment[TP].highwater = 7
    unreadable.read_to(5)
    assert list(unreadable.blocks) == [block(PARTITION)]


def test_a_block_that_was_entered_while_its_partition_was_taken_away_ends() -> None:
    unreadable = Unreadable()
    unreadable.partitions.block(PARTITION, 5, "broken")
    del unreadable.consumer._subscription.assignment[TP]
    unreadable.partitions.watch(unreadable.consumer)
    assert unreadable.blocks == {}


def test_a_partition_with_another_log_is_unblocked_whatever_its_offsets() -> None:
    unreadable = Unreadable()
    unreadable.partitions.block(PARTITION, 5, "broken")
    unreadable.partitions.unblock(PARTITION)
    assert (unreadable.partitions.waiting, unreadable.blocks) == (frozenset(), {})


def test_a_block_that_another_put_up_is_not_taken_away() -> None:
    unreadable = Unreadable()
    unreadable.status.block(block(PARTITION), "no leader")
    unreadable.partitions.unblock(PARTITION)
    unreadable.read_to(6)
    assert list(unreadable.blocks) == [block(PARTITION)]


def test_a_dropped_partition_is_not_known_any_more() -> None:
    unreadable = Unreadable()
    unreadable.partitions.block(PARTITION, 5, "broken")
    unreadable.partitions.drop(PARTITION)
    unreadable.partitions.drop(PARTITION)
    assert unreadable.partitions.waiting == frozenset()


class Denied:
    """Two open partitions of a topic that this user may no longer read, and one of another."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.status = Status(0.0)
        self.ledger = ledger = Ledger(["vectors", "images"], self.clock)
        for topic, number in (("vectors", 0), ("vectors", 1), ("images", 0)):
            opened(ledger, topic, number)
        ledger.assign(Partition("vectors", 2))  # not open
        self.topics = DeniedTopics(ledger, self.status, RETRY_SECONDS, self.clock)
        self.consumer = FakeConsumer()
        self.consumer.own(PARTITION, OTHER)
        self.states: Any = self.consumer._subscription.assignment
        self.states[TP].highwater = 7
        self.topics.block(self.consumer, kafka_errors.TopicAuthorizationFailedError({"vectors"}))

    @property
    def blocks(self) -> list[Block]:
        return list(self.status.read().blocks)


def test_a_denied_topic_blocks_its_open_partitions_and_is_not_fetched() -> None:
    denied = Denied()
    assert (denied.topics.waiting, denied.blocks) == (frozenset({"vectors"}), [block(PARTITION), block(OTHER)])
    assert denied.states[TP].highwater is None  # so that the next one is that of a fetch which succeeded


def test_a_denied_topic_is_unblocked_by_partition_once_it_was_fetched_again() -> None:
    denied = Denied()
    denied.consumer.highwaters[TP] = 7
    denied.topics.watch(denied.consumer)
    assert denied.blocks == [block(PARTITION), block(OTHER)]  # before the pause is over nothing was fetched
    denied.clock.advance(RETRY_SECONDS)
    denied.topics.watch(denied.consumer)
    assert (denied.topics.waiting, denied.blocks) == (frozenset(), [block(OTHER)])
    denied.consumer.highwaters[TopicPartition(*OTHER)] = 7
    denied.topics.watch(denied.consumer)
    assert denied.blocks == []


def test_a_denied_partition_that_is_opened_again_after_the_pause_stays_blocked_until_it_is_fetched() -> None:
    """The topic was recreated, or its log was cut: it is not open when the pause is over."""
    denied = Denied()
    before = denied.ledger.assignment(PARTITION)
    assert before is not None
    again = denied.ledger.reassign(before)
    assert again is not None
    denied.clock.advance(RETRY_SECONDS)
    denied.consumer.highwaters[TopicPartition(*OTHER)] = 7
    denied.topics.watch(denied.consumer)
    assert denied.blocks == [block(PARTITION)]
    denied.ledger.open(again, 0, None)
    denied.topics.watch(denied.consumer)
    assert denied.blocks == [block(PARTITION)]
    denied.consumer.highwaters[TP] = 7
    denied.topics.watch(denied.consumer)
    assert denied.blocks == []


def test_a_denied_partition_that_was_given_back_is_not_waited_for() -> None:
    denied = Denied()
    denied.ledger.end(denied.ledger.begin_revoke([PARTITION]))
    denied.clock.advance(RETRY_SECONDS)
    denied.consumer.highwaters[TopicPartition(*OTHER)] = 7
    denied.topics.watch(denied.consumer)
    assert (denied.topics._blocked, denied.topics._again_at) == (set(), {})
