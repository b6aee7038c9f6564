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

    def __init__(self, first: int, refused: Iterable[int]) -> None:
        self.first = first
        self.refused = set(refused)
        self.at: dict[TopicPartition, int] = {}

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.at = dict.fromkeys(partitions, 0)

    def resume(self, *partitions: TopicPartition) -> None: ...

    def pause(self, *partitions: TopicPartition) -> None: ...

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at[tp] = offset

    def position(self, tp: TopicPartition, _timeout_ms: int) -> int:
        return self.at[tp]

    def beginning_offsets(self, partitions: Sequence[TopicPartition], *_: object) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.first)

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        for tp, at in self.at.items():
            if at < self.first or (tp.partition == 0 and at in self.refused):
                raise kafka_errors.OffsetOutOfRangeError({tp: at})
        self.at = {tp: at + 1 for tp, at in self.at.items()}
        return {tp: [SimpleNamespace(offset=at - 1)] for tp, at in self.at.items()}


def scan(consumer: Consumer, clock: FakeClock) -> tuple[Scanner, list[tuple[int, int]]]:
    scanner = Scanner(Kafka(), clock=clock, sleep=clock.advance)
    scanner._consumer = consumer
    read: list[tuple[int, int]] = []

    def watched() -> None:
        for partition, messages in scanner.read([Stretch(PARTITION, 0, 5)]):
            read.extend((partition.partition, message.offset) for message in messages)

    if consumer.refused:
        with pytest.raises(FatalError, match=r"OFFSET_OUT_OF_RANGE for vectors/0$"):
            watched()
    else:
        watched()
    return scanner, read


def test_an_offset_that_the_log_has_and_the_broker_refuses_ends_the_scan_with_an_error() -> None:
    """From the first offset on the scan would come to the same place again, without end."""
    clock = FakeClock()
    begun = clock()
    scanner, read = scan(Consumer(first=0, refused=[3]), clock)
    assert (read, scanner.lost) == ([(0, 0), (0, 1), (0, 2)], {})
    assert 30 < clock() - begun < 32


def test_what_retention_removed_is_passed_and_counted() -> None:
    scanner, read = scan(Consumer(first=2, refused=[]), FakeClock())
    assert (read, scanner.lost) == ([(0, 2), (0, 3), (0, 4)], {PARTITION: 2})
