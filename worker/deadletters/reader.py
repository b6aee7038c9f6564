"""Reads one record of a source topic again, for a dead letter that was kept without its bytes."""

import time
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_config, client_internals, client_network, receive
from worker.consumer.offset_requests import Edge, ask_edge, is_in_log
from worker.ledger import Partition
from worker.ports import Message
from worker.settings.tables import Kafka

READ_SECONDS: Final = 5.0  # other dead letters wait as long
_POLL_MS: Final = 500


class SourceReader:
    """A consumer without a group, which reads single records. Not thread-safe."""

    def __init__(self, settings: Kafka) -> None:
        self._settings = settings
        self._consumer: Any = None

    def read(self, partition: Partition, offset: int) -> Message | None:
        """Return the record at this offset, None where it is gone: by retention, compaction, or with its topic.

        Waits `READ_SECONDS` at most, and as long for each edge of a log whose broker refuses the offset. Raises kafka-python's
        errors, `OffsetOutOfRangeError` where the log has the offset and the broker refuses it all the same.
        """
        consumer = self._connected()
        tp = TopicPartition(*partition)
        consumer.assign([tp])
        consumer.seek(tp, offset)
        deadline = time.monotonic() + READ_SECONDS
        while time.monotonic() < deadline:
            try:
                records = consumer.poll(timeout_ms=_POLL_MS, max_records=1).get(tp)
            except kafka_errors.OffsetOutOfRangeError:
                begin, end = (self._edge(consumer, tp, edge) for edge in (Edge.BEGINNING, Edge.END))
                if not is_in_log(offset, begin, end):
                    return None
                message = f"the broker refuses {partition} offset {offset}, and has the offsets from {begin} to {end}"
                raise kafka_errors.OffsetOutOfRangeError(message) from None
            if records:
                found: Message = records[0]
                return found if found.offset == offset else None
            position = consumer.position(tp, timeout_ms=_POLL_MS)
            if position is not None and position > offset:
                return None  # what is there has no records any more
        message = f"{partition} offset {offset} was not read again in {READ_SECONDS:.0f} s"
        raise kafka_errors.KafkaTimeoutError(message)

    def _edge(self, consumer: Any, tp: TopicPartition, edge: Edge) -> int:
        (asked,) = ask_edge(consumer, [tp], edge, "read_uncommitted")
        found = client_internals.wait(consumer, asked.future, round(READ_SECONDS * 1000))[tp]
        if isinstance(found, BaseException):
            raise found
        return int(found)

    def _connected(self) -> Any:
        if self._consumer is None:
            self._consumer = client_config.make_consumer(
                client_network.make_client,
                **client_config.consumer(self._settings, KafkaConsumer.DEFAULT_CONFIG),
                auto_offset_reset="none",
            )
            receive.read_without_copies(self._consumer)
        return self._consumer

    def close(self) -> None:
        """Close the consumer; the next read makes another."""
        consumer, self._consumer = self._consumer, None
        client_config.close_consumer(consumer)
