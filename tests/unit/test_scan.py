"""What a scan does where the broker calls an offset out of range. What it reads is tested with a real broker."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors

from tests.support.fakes import FakeClock
from worker.errors import FatalError
from worker.ledger import Partition
from worker.settings.tables import Kafka
from worker.tools.scan import Scanner, Stretch

PARTITION = Partition("vectors", 0)


class Consumer:
    """A log of each partition from `first` on, in which these offsets are refused."""

    def __init__(self, clock: FakeClock, first: int, refused: Iterable[int]) -> None:
        self.clock = clock
        self.paused: set[TopicPartition] = set()
        self.first = first
        self.refused = set(refused)
        self.at: dict[TopicPartition, int] = {}

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.at = dict.fromkeys(partitions, 0)

    def resume(self, *partitions: TopicPartition) -> None:
        self.paused -= {*partitions}

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused |= {*partitions}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at[tp] = offset

    def position(self, tp: TopicPartition, _timeout_ms: int) -> int:
        return self.at[tp]

    def beginning_offsets(self, partitions: Sequence[TopicPartition], *_: object) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.first)

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        self.clock.advance(0.5)
        fetched = {tp: at for tp, at in self.at.items() if tp not in self.paused}
        for tp, at in fetched.items():
            if at < self.first or (tp.partition == 0 and at in self.refused):
                raise kafka_errors.OffsetOutOfRangeError({tp: at})
        self.at |= {tp: at + 1 for tp, at in fetched.items()}
        return {tp: [SimpleNamespace(offset=at)] for tp, at in fetched.items()}


def scan(consumer: Consumer, *more: Stretch) -> tuple[Scanner, list[tuple[int, int]]]:
    scanner = Scanner(Kafka(), clock=consumer.clock)
    scanner._consumer = consumer
    read: list[tuple[int, int]] = []

    def watched() -> None:
        for partition, messages in scanner.read([Stretch(PARTITION, 0, 5), *more]):
            read.extend((partition.partition, message.offset) for message in messages)

    if consumer.refused:
        with pytest.raises(FatalError, match=r"OFFSET_OUT_OF_RANGE for vectors/0: vectors/0 at 3 of 5"):
            watched()
    else:
        watched()
    return scanner, read


def test_an_offset_that_the_log_has_and_the_broker_refuses_ends_the_scan_with_an_error() -> None:
    """From the first offset on the scan would come to the same place again, without end."""
    clock = FakeClock()
    begun = clock()
    scanner, read = scan(Consumer(clock, first=0, refused=[3]))
    assert (read, scanner.lost) == ([(0, 0), (0, 1), (0, 2)], {})
    assert 30 < clock() - begun < 34


def test_other_partitions_are_read_while_the_broker_refuses_an_offset_and_its_patience_does_not_wait_for_them() -> None:
    clock = FakeClock()
    begun = clock()
    other = Partition(PARTITION.topic, 1)
    _, read = scan(Consumer(clock, first=0, refused=[3]), Stretch(other, 0, 1000))
    assert 30 < clock() - begun < 36
    others = sum(number == 1 for number, _ in read)
    assert others > 45  # of some 65 polls, one in five is for the offset that is refused


def test_what_retention_removed_is_passed_and_counted() -> None:
    scanner, read = scan(Consumer(FakeClock(), first=2, refused=[]))
    assert (read, scanner.lost) == ([(0, 2), (0, 3), (0, 4)], {PARTITION: 2})
