"""Partitions that cannot be read: each is blocked and read again later, while all others are read.

Two causes: a batch, an order of records or an offset that cannot be read (`UnreadablePartitions`), and a topic that this
user may no longer read (`DeniedTopics`).
"""

import contextlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kafka import TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_config, client_internals
from worker.consumer.partitions import GONE
from worker.errors import BlockReason
from worker.ledger import Assignment, Ledger, Partition, Phase
from worker.telemetry.state import Block, Status

# The client's errors that are about the content of a partition. A broker answers "UnknownError" if its own reading of a file
# failed in a way for which it has no error code.
_UNREADABLE: Final = (
    kafka_errors.CorruptRecordError,
    kafka_errors.UnsupportedCodecError,
    kafka_errors.UnknownError,
)
_OF_BATCH: Final = "batch"  # the owners of the blocks
_OF_RIGHTS: Final = "rights"


class _Unreadable(NamedTuple):
    """Where a partition cannot be read, and when to read it again, in the clock's seconds."""

    offset: int
    again_at: float
    is_refused: bool  # the broker refuses to fetch it, so that a fetch that succeeds is proof enough


class UnreadablePartitions:
    """Partitions with a place that cannot be read. Only the main loop calls it, except that any thread may call `drop`."""

    def __init__(self, status: Status, retry_seconds: float, clock: Callable[[], float]) -> None:
        self._status = status
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._found: dict[Partition, _Unreadable] = {}

    @property
    def waiting(self) -> frozenset[Partition]:
        """The partitions that are not to be fetched now."""
        if not self._found:
            return frozenset()
        now = self._clock()
        return frozenset(partition for partition, found in list(self._found.items()) if now < found.again_at)

    def is_retried(self, partition: Partition) -> bool:
        """Return whether a partition could not be read, and was not read since."""
        return partition in self._found

    def stop_reading(self, consumer: Any, error: Exception) -> bool:
        """Block the partition whose batch cannot be read; return False where the error is not about such a batch.

        The client would read the batch again at once, and never come to an end, so it is made to drop what it fetched.
        """
        is_of_the_client = isinstance(error, kafka_errors.KafkaError) and type(error) is not kafka_errors.KafkaError
        if is_of_the_client and not isinstance(error, _UNREADABLE):
            return False
        place = client_internals.fetch_place_of(error)
        if place is None:
            return False
        tp, offset = place
        client_internals.drop_fetched(consumer, tp)
        self.block(Partition(tp.topic, tp.partition), offset, client_config.describe(error))
        return True

    def block(self, partition: Partition, offset: int, problem: str) -> None:
        """Block a partition that cannot be read at `offset`; it is fetched again after the retry pause."""
        self._block(partition, offset, problem, is_refused=False)

    def block_refused(self, consumer: Any, partition: Partition, offset: int, problem: str) -> None:
        """Block a partition whose broker refuses to fetch `offset`; it is fetched again after the retry pause."""
        client_internals.forget_high_watermark(consumer, TopicPartition(*partition))
        self._block(partition, offset, problem, is_refused=True)

    def _block(self, partition: Partition, offset: int, problem: str, *, is_refused: bool) -> None:
        self._found[partition] = _Unreadable(offset, self._clock() + self._retry_seconds, is_refused)
        message = f"{partition} offset {offset}: {problem}"
        self._status.block(
            Block.of(partition, BlockReason.PARTITION_UNREADABLE),
            message,
            retry_in=self._retry_seconds,
            owner=_OF_BATCH,
        )

    def watch(self, consumer: Any) -> None:
        """Unblock the partitions that were read past the place that could not be read, and those that are no longer owned.

        No record has to come for that: what was bad may be gone, or only markers and aborted records may come behind it.
        A fetch that the broker refused is proved by the next one that succeeds, also at the end of the log.
        """
        if not self._found:
            return
        states = client_internals.PartitionStates(consumer)
        for partition, found in list(self._found.items()):
            tp = TopicPartition(*partition)
            position = states.position(tp)
            is_passed = position is not None and position.offset > found.offset
            is_fetched = found.is_refused and states.high_watermark(tp) is not None
            if is_passed or is_fetched or states.ownership(tp) is None:
                self.unblock(partition)

    def unblock(self, partition: Partition) -> None:
        """Unblock a partition that can be read, or has another log by now, whose offsets may never come so far."""
        if self._found.pop(partition, None) is not None:
            self._status.unblock(Block.of(partition, BlockReason.PARTITION_UNREADABLE), owner=_OF_BATCH)

    def drop(self, partition: Partition) -> None:
        """Forget a partition that is no longer owned. It is called by the client's IO thread too."""
        self._found.pop(partition, None)


class DeniedTopics:
    """Topics that this user may no longer read. Only the main loop calls it."""

    def __init__(self, ledger: Ledger, status: Status, retry_seconds: float, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._status = status
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._again_at: dict[str, float] = {}
        self._blocked: set[Partition] = set()  # until each was fetched again, or is no longer owned

    @property
    def waiting(self) -> frozenset[str]:
        """The topics that are not to be fetched now."""
        if not self._again_at:
            return frozenset()
        now = self._clock()
        return frozenset(topic for topic, again_at in self._again_at.items() if now < again_at)

    def is_retried(self, partition: Partition) -> bool:
        """Return whether a partition is of a topic that could not be read, and not all of that was read since."""
        return partition.topic in self._again_at

    def block(self, consumer: Any, error: Exception) -> None:
        """Block the topics that a `TopicAuthorizationFailedError` names; they are fetched again after the retry pause."""
        for topic in error.args[0]:
            self._again_at[topic] = self._clock() + self._retry_seconds
            message = f"{topic} may not be read by this user any more (TOPIC_AUTHORIZATION_FAILED): grant READ on it"
            for assignment in self._open_partitions(topic):
                client_internals.forget_high_watermark(consumer, TopicPartition(*assignment.partition))
                self._blocked.add(assignment.partition)
                block = Block.of(assignment.partition, BlockReason.PARTITION_UNREADABLE)
                self._status.block(block, message, retry_in=self._retry_seconds, owner=_OF_RIGHTS)

    def watch(self, consumer: Any) -> None:
        """Unblock what was fetched again: the client has a high watermark after a fetch that succeeds.

        A partition that is opened again meanwhile, since its log was cut or is another one, is still blocked.
        """
        for topic, again_at in list(self._again_at.items()):
            if self._clock() < again_at:
                continue
            readable = {
                one.partition
                for one in self._open_partitions(topic)
                if one.partition in self._blocked and _has_high_watermark(consumer, one.partition)
            }
            for partition in sorted(readable):
                self._status.unblock(Block.of(partition, BlockReason.PARTITION_UNREADABLE), owner=_OF_RIGHTS)
            self._blocked -= readable
            self._blocked = {partition for partition in self._blocked if self._ledger.assignment(partition) is not None}
            if not any(partition.topic == topic for partition in self._blocked):
                del self._again_at[topic]

    def _open_partitions(self, topic: str) -> list[Assignment]:
        owned = self._ledger.assignments()
        return [one for one in owned if one.partition.topic == topic and one.phase is Phase.OPEN]


def _has_high_watermark(consumer: Any, partition: Partition) -> bool:
    with contextlib.suppress(*GONE):
        return consumer.highwater(TopicPartition(*partition)) is not None
    return False
