"""When a record that is to be read again is gone, and when it only cannot be read."""

from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.future import Future

from tests.support.client import FakeConsumer
from worker.consumer.offset_requests import Edge
from worker.deadletters.reader import SourceReader
from worker.ledger import Partition
from worker.settings.tables import Kafka

PARTITION = Partition("vectors", 0)
TP = TopicPartition(*PARTITION)
OFFSET = 5


class Consumer(FakeConsumer):
    """A consumer that polls what the test gives, of a log with these edges."""

    def __init__(self, found: list[Any] | Exception, edges: dict[Edge, Any]) -> None:
        super().__init__({"vectors": 1})
        self._found = found
        self._edges = edges
        self.levels: list[object] = []

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Own them."""
        self.own(*partitions)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Note it."""
        self._seek(tp, offset)

    def poll(self, timeout_ms: int, max_records: int = 1) -> dict[TopicPartition, list[Any]]:
        """Return what the test gives."""
        if isinstance(self._found, Exception):
            raise self._found
        return {TP: self._found[:max_records]}

    def _call_soon(self, make: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Future:
        assert make.__name__ == "_list_offsets"
        *_, edge, level = arguments
        self.levels.append(level)
        return Future().success({TP: self._edges[edge]})


def reader_of(consumer: Consumer) -> SourceReader:
    reader = SourceReader(Kafka())
    reader._consumer = consumer
    return reader


def refusing(begin: Any, end: Any) -> Consumer:
    """A consumer whose broker calls the offset out of range."""
    refusal = kafka_errors.OffsetOutOfRangeError({TP: OFFSET})
    return Consumer(refusal, {Edge.BEGINNING: begin, Edge.END: end})


@pytest.mark.parametrize(("begin", "end"), [(OFFSET + 1, 100), (0, OFFSET - 1)], ids=["retention", "another log"])
def test_a_record_outside_of_its_log_is_gone(begin: int, end: int) -> None:
    assert reader_of(refusing(begin, end)).read(PARTITION, OFFSET) is None


@pytest.mark.parametrize(("begin", "end"), [(0, 100), (OFFSET, 100)])
def test_a_record_that_the_log_has_is_not_gone_where_the_broker_refuses_it(begin: int, end: int) -> None:
    """Its dead letter would be written without its bytes, which may be the only copy."""
    consumer = refusing(begin, end)
    with pytest.raises(kafka_errors.OffsetOutOfRangeError, match=f"has the offsets from {begin} to {end}"):
        reader_of(consumer).read(PARTITION, OFFSET)
    assert consumer.levels == ["read_uncommitted"] * 2


@pytest.mark.parametrize("unknown", [Edge.BEGINNING, Edge.END])
def test_a_record_is_not_gone_while_an_edge_of_its_log_is_not_known(unknown: Edge) -> None:
    edges: dict[Edge, Any] = {Edge.BEGINNING: OFFSET + 1, Edge.END: 100}
    edges[unknown] = kafka_errors.LeaderNotAvailableError()
    with pytest.raises(kafka_errors.LeaderNotAvailableError):
        reader_of(refusing(edges[Edge.BEGINNING], edges[Edge.END])).read(PARTITION, OFFSET)


def test_a_record_that_is_there_is_returned_and_one_that_was_compacted_is_gone() -> None:
    there = SimpleNamespace(offset=OFFSET, leader_epoch=0)
    behind = SimpleNamespace(offset=OFFSET + 1, leader_epoch=0)
    assert reader_of(Consumer([there], {})).read(PARTITION, OFFSET) is there
    assert reader_of(Consumer([behind], {})).read(PARTITION, OFFSET) is None
