"""Reads stretches of partitions from their first offset to their last, in no group and without a commit.

A scan ends: every stretch has its end when the scan begins, records that come later are not read, and a broker that does
not answer ends it with an error. Records of a partition come in the order of their offsets.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors

from worker.consumer import client_config, receive
from worker.errors import FatalError
from worker.ledger import Partition
from worker.ports import Message
from worker.settings.tables import Kafka
from worker.tools import connections

ANSWER_SECONDS: Final = 15.0  # for one question to the brokers
PATIENCE_SECONDS: Final = 30.0  # without a record, and without a step of any partition
_POLL_MS: Final = 500
_REFUSED_SECONDS: Final = 2.0  # after which an offset that the broker refused is asked for again


class NoTopic(FatalError):
    """There is no such topic, or it is not shown to this user."""


class Stretch(NamedTuple):
    """The records of one partition from offset `begin` up to `end`, which is exclusive."""

    partition: Partition
    begin: int
    end: int

    @property
    def size(self) -> int:
        """How many offsets it has."""
        return max(0, self.end - self.begin)


class _Refused(NamedTuple):
    """Where the broker called an offset out of range that the log has: since when, and when it is asked again."""

    offset: int
    since: float
    again_at: float


class Scanner:
    """A consumer without a group. Not safe for several threads. Every method raises `FatalError`, in one line."""

    def __init__(
        self,
        settings: Kafka,
        *,
        clock: Callable[[], float] = time.monotonic,
        answer_seconds: float = ANSWER_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.lost: dict[Partition, int] = {}
        """How many offsets of a stretch retention removed before they were read."""
        self._settings = settings
        self._clock = clock
        self._answer_ms = round(answer_seconds * 1000)
        self._patience_seconds = patience_seconds
        self._refused: dict[TopicPartition, _Refused] = {}
        self._consumer: Any = None

    def partitions(self, topic: str) -> list[Partition]:
        """Return the partitions of a topic, by number."""
        numbers = self._ask(lambda consumer: consumer.partitions_for_topic(topic))
        if not numbers:
            raise NoTopic(f"kafka has no topic {topic}, or does not show it to this user")
        return [Partition(topic, number) for number in sorted(numbers)]

    def first_offsets(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return the first offset that each partition still has."""
        return self._offsets(partitions, lambda consumer, tps: consumer.beginning_offsets(tps, self._answer_ms))

    def end_offsets(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return the offset behind each partition's last record, at the isolation level of the settings."""
        return self._offsets(partitions, lambda consumer, tps: consumer.end_offsets(tps, self._answer_ms))

    def everything(self, partitions: Collection[Partition]) -> list[Stretch]:
        """Return a stretch for all that each partition has now."""
        firsts, ends = self.first_offsets(partitions), self.end_offsets(partitions)
        return [Stretch(one, firsts[one], ends[one]) for one in partitions]

    def offsets_at(self, partitions: Collection[Partition], seconds: float) -> dict[Partition, int]:
        """Return the first offset whose record is of this Unix time or later; the end where there is none."""
        ends = self.end_offsets(partitions)
        times = {TopicPartition(*partition): max(0, round(seconds * 1000)) for partition in partitions}
        found = self._ask(lambda consumer: consumer.offsets_for_times(times, self._answer_ms))
        return {
            partition: min(ends[partition], at.offset)
            if (at := found.get(TopicPartition(*partition)))
            else ends[partition]
            for partition in partitions
        }

    def read(self, stretches: Iterable[Stretch]) -> Iterator[tuple[Partition, Sequence[Message]]]:
        """Yield records, some of one partition at a time, until every stretch was read to its end."""
        waiting = {TopicPartition(*stretch.partition): stretch for stretch in stretches if stretch.begin < stretch.end}
        if not waiting:
            return
        consumer = self._connected()
        consumer.assign(list(waiting))
        consumer.resume(*waiting)  # an earlier scan may have paused them, and the client remembers that
        for tp, stretch in waiting.items():
            consumer.seek(tp, stretch.begin)
        self._refused.clear()
        positions: Mapping[TopicPartition, int | None] = {}
        moved_at = self._clock()
        while waiting:
            for tp, messages in self._polled(consumer, waiting).items():
                inside = [message for message in messages if message.offset < waiting[tp].end]
                if inside:
                    yield waiting[tp].partition, inside
            # Behind the last record there may be offsets without one: the marker of a transaction, say.
            before, positions = positions, {tp: consumer.position(tp, _POLL_MS) for tp in waiting}
            self._ask_refused_again(consumer, waiting, positions)
            if positions != before:
                moved_at = self._clock()
            elif self._clock() - moved_at > self._patience_seconds:
                raise FatalError(self._stuck(waiting, positions))
            ended = [tp for tp, at in positions.items() if at is not None and at >= waiting[tp].end]
            for tp in ended:
                del waiting[tp]
            if ended and waiting:
                consumer.pause(*ended)

    def close(self) -> None:
        """Close the consumer; the next question makes another."""
        consumer, self._consumer = self._consumer, None
        client_config.close_consumer(consumer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _polled(self, consumer: Any, waiting: Mapping[TopicPartition, Stretch]) -> dict[TopicPartition, list[Message]]:
        try:
            records: dict[TopicPartition, list[Message]] = consumer.poll(timeout_ms=_POLL_MS)
        except kafka_errors.OffsetOutOfRangeError as error:
            self._skip_removed(consumer, [waiting[tp] for tp in error.args[0] if tp in waiting])
            return {}
        except kafka_errors.RetriableError:
            return {}
        except kafka_errors.KafkaError as error:
            raise FatalError(f"a topic cannot be read: {client_config.describe(error)}") from error
        return {tp: messages for tp, messages in records.items() if tp in waiting}

    def _skip_removed(self, consumer: Any, stretches: Sequence[Stretch]) -> None:
        """Continue at the first offset that is left, where retention overtook the scan.

        An offset that the log has, or that is behind its end, is asked for again while there is patience: from the first one
        all records would be read again. The other partitions are read meanwhile.
        """
        now = self._clock()
        firsts = self.first_offsets([stretch.partition for stretch in stretches])
        for partition, first in firsts.items():
            tp = TopicPartition(*partition)
            at = consumer.position(tp, _POLL_MS) or 0
            if at < first:
                self.lost[partition] = self.lost.get(partition, 0) + first - at
                consumer.seek(tp, first)
            else:
                known = self._refused.get(tp)
                since = now if known is None or known.offset != at else known.since
                self._refused[tp] = _Refused(at, since, now + _REFUSED_SECONDS)
                consumer.pause(tp)

    def _ask_refused_again(
        self, consumer: Any, waiting: Mapping[TopicPartition, Stretch], positions: Mapping[TopicPartition, int | None]
    ) -> None:
        """Read on where an offset was refused a while ago. Raises `FatalError` where that has lasted for too long."""
        now = self._clock()
        for tp, refused in list(self._refused.items()):
            if tp not in waiting or positions[tp] != refused.offset:
                del self._refused[tp]
            elif now - refused.since > self._patience_seconds:
                raise FatalError(self._stuck(waiting, positions))
            elif now >= refused.again_at:
                consumer.resume(tp)

    def _stuck(self, waiting: Mapping[TopicPartition, Stretch], positions: Mapping[TopicPartition, int | None]) -> str:
        places = ", ".join(f"{tp.topic}/{tp.partition} at {positions[tp]} of {waiting[tp].end}" for tp in waiting)
        refused = ", ".join(f"{tp.topic}/{tp.partition}" for tp in sorted(self._refused.keys() & waiting.keys()))
        why = f"; the broker answered OFFSET_OUT_OF_RANGE for {refused}" if refused else ""
        return f"no record came for {self._patience_seconds:.0f} s{why}: {places}"

    def _offsets(self, partitions: Collection[Partition], ask: Callable[[Any, Any], Any]) -> dict[Partition, int]:
        if not partitions:
            return {}
        found = self._ask(lambda consumer: ask(consumer, [TopicPartition(*partition) for partition in partitions]))
        return {Partition(tp.topic, tp.partition): offset for tp, offset in found.items()}

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        try:
            return question(self._connected())
        except kafka_errors.KafkaError as error:
            raise FatalError(f"kafka did not answer: {client_config.describe(error)}") from error

    def _connected(self) -> Any:
        if self._consumer is None:
            try:
                self._consumer = client_config.make_consumer(
                    connections.make_client,
                    **client_config.consumer(self._settings, KafkaConsumer.DEFAULT_CONFIG),
                    auto_offset_reset="none",
                )
            except (kafka_errors.KafkaError, OSError) as error:
                servers = ", ".join(self._settings.bootstrap_servers)
                raise FatalError(f"kafka at {servers} cannot be reached: {client_config.describe(error)}") from error
            receive.read_without_copies(self._consumer)
        return self._consumer
