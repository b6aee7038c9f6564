"""Reads one record of a source topic again, for a dead letter that was kept without its bytes."""

import contextlib
import time
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient

from worker import kafka_client, wire
from worker.batch import Message
from worker.config import Kafka
from worker.offsets import Partition

READ_SECONDS: Final = 5.0  # other letters wait as long
_POLL_MS: Final = 500
_CLOSE_MS: Final = 1_000


class SourceReader:
    """A consumer without a group, which reads single records. Not safe for several threads."""

    def __init__(self, settings: Kafka) -> None:
        self._settings = settings
        self._consumer: Any = None

    def read(self, partition: Partition, offset: int) -> Message | None:
        """Return the record at this offset, None where it is gone: by retention, compaction, or with its topic.

        Waits `READ_SECONDS` at most. Raises kafka-python's errors.
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
                return None
            if records:
                found: Message = records[0]
                return found if found.offset == offset else None
            position = consumer.position(tp, timeout_ms=_POLL_MS)
            if position is not None and position > offset:
                return None  # what is there has no records any more
        message = f"{partition} offset {offset} was not read again in {READ_SECONDS:.0f} s"
        raise kafka_errors.KafkaTimeoutError(message)

    def _connected(self) -> Any:
        if self._consumer is None:
            self._consumer = _make_consumer(self._settings)
            wire.read_in_place(self._consumer)
        return self._consumer

    def close(self) -> None:
        """Close the consumer; the next read makes another."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(Exception):  # it is of no more use, whatever it says to that
                consumer.close(timeout_ms=_CLOSE_MS)


def _make_consumer(settings: Kafka) -> Any:
    """Return a consumer. Where it cannot be made, its client is closed, which the constructor leaves running."""
    clients: list[Any] = []

    def make(**config: Any) -> Any:
        clients.append(KafkaNetClient(**config))
        return clients[-1]

    config = kafka_client.consumer(settings, KafkaConsumer.DEFAULT_CONFIG)
    try:
        return KafkaConsumer(**config, auto_offset_reset="none", kafka_client=make)
    except Exception:
        for client in clients:
            client.close()
        raise
